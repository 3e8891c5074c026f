"""A manager that serves its API over TLS, to those who have its token."""

from __future__ import annotations

import os
from pathlib import Path

import trustme

from tests.support.manager import Manager

TOKEN = "hunter2"


def secure(manager: Manager, directory: Path) -> None:
    """Give a manager that is not started yet a certificate and a token.

    Clients find ``ca.crt`` and ``token`` in *directory*.
    """
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    own = manager.directory
    issued.cert_chain_pems[0].write_to_path(own / "tls.crt")
    issued.private_key_pem.write_to_path(own / "tls.key")
    (own / "token").write_text(f"{TOKEN}\n")
    for name in ("tls.crt", "tls.key", "token"):
        (own / name).chmod(0o600)
        os.chown(own / name, own.stat().st_uid, own.stat().st_gid)
    manager.settings["control"] |= {
        "token_file": str(own / "token"),
        "tls": {"certificate_file": str(own / "tls.crt"), "key_file": str(own / "tls.key")},
    }
    authority.cert_pem.write_to_path(directory / "ca.crt")
    (directory / "token").write_text(f"{TOKEN}\n")
