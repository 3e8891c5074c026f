"""What the client is to trust and to show is told by its file's name where it can't be used."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from instance_manager.client_tls import client_context


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """The library's own error tells of none."""
    with pytest.raises(FileNotFoundError, match="no-ca"):
        client_context(ca_file=tmp_path / "no-ca")
    with pytest.raises(FileNotFoundError, match=r"no-certificate and .*no-key"):
        client_context(certificate=(tmp_path / "no-certificate", tmp_path / "no-key"))


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    """A text, and the key of another certificate."""
    (tmp_path / "text").write_text("nothing of the kind")
    authority = trustme.CA()
    for name in ("one", "other"):
        issued = authority.issue_cert(name)
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.crt")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")

    with pytest.raises(ssl.SSLError, match=r"cannot use .*text"):
        client_context(ca_file=tmp_path / "text")
    with pytest.raises(ssl.SSLError, match=r"one\.crt and .*other\.key: KEY_VALUES_MISMATCH"):
        client_context(certificate=(tmp_path / "one.crt", tmp_path / "other.key"))
