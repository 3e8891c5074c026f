"""The parts of which a list of parts is made: SPDX 2.3 (spdx.github.io/spdx-spec/v2.3).

Pure. What is listed, and how it hangs together, whoever writes a list says.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Final

from instance_manager import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DOCUMENT: Final = "SPDXRef-DOCUMENT"
IMAGE: Final = "SPDXRef-Image"

_NONE: Final = "NOASSERTION"
_UNFIT: Final = re.compile(r"[^A-Za-z0-9.-]")


def identifier(kind: str, name: object) -> str:
    """Return what a part is called in the list: letters, digits, dots and hyphens."""
    # What does not fit becomes a hyphen; names that differ in a plus alone must stay apart.
    return f"SPDXRef-{kind}-{_UNFIT.sub('-', str(name).replace('+', '-plus-'))}"


def part(own: str, name: str, version: str, **more: object) -> dict[str, object]:
    """Return a package; a field that is empty is left out.

    Args:
        own: its identifier.
        name: its name.
        version: its version.
        more: further fields, or another value of one that would say nothing.
    """
    found = {
        "SPDXID": own,
        "name": name,
        "versionInfo": version,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "licenseConcluded": _NONE,
        "licenseDeclared": _NONE,
        "copyrightText": _NONE,
        **more,
    }
    return {key: value for key, value in found.items() if value not in ("", [])}


def origin(
    address: str, *, sha256: str = "", source: str = "", supplier: str = ""
) -> dict[str, object]:
    """Return the fields of a package that say where it comes from; *address* is its URL."""
    return {
        "sourceInfo": source and f"built from: {source}",
        "supplier": supplier and f"Organization: {supplier}",
        "checksums": [_checksum("SHA256", sha256)] if sha256 else [],
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": address,
            }
        ],
    }


def all_files(sums: Iterable[str], bill: str) -> dict[str, object]:
    """Return the fields of a package all of whose files are listed, but for the list itself.

    *sums* are those of SHA-1; *bill* is the list's path.
    """
    # As section 7.9 has it: the sums sorted, and put together without anything between.
    code = hashlib.sha1("".join(sorted(sums)).encode(), usedforsecurity=False).hexdigest()
    return {
        "filesAnalyzed": True,
        "packageVerificationCode": {
            "packageVerificationCodeValue": code,
            "packageVerificationCodeExcludedFiles": [f"./{bill}"],
        },
    }


def file(number: int, path: str, sha1: str, sha256: str, comment: str = "") -> dict[str, object]:
    """Return a file; the first has the number 1."""
    found: dict[str, object] = {
        "SPDXID": identifier("File", number),
        "fileName": f"./{path}",
        "checksums": [_checksum("SHA1", sha1), _checksum("SHA256", sha256)],
        "licenseConcluded": _NONE,
        "licenseInfoInFiles": [_NONE],
        "copyrightText": _NONE,
    }
    return {**found, "comment": comment} if comment else found


def relation(one: str, kind: str, other: str) -> dict[str, str]:
    """Return what two parts have to do with one another."""
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def bill(
    name: str,
    version: str,
    created: str,
    packages: Sequence[dict[str, object]],
    files: Sequence[dict[str, object]],
    relations: Sequence[dict[str, str]],
) -> bytes:
    """Return the whole list; the first package is the image that it describes."""
    document: dict[str, object] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": f"{name}-{version}",
        "creationInfo": {
            "created": created,
            "creators": [f"Tool: instance-manager-{__version__}"],
        },
        "packages": packages,
        "files": files,
        "relationships": [relation(DOCUMENT, "DESCRIBES", IMAGE), *relations],
    }
    # The namespace must be unique to a document; of its content, it is the same for each build.
    identity = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["documentNamespace"] = f"https://spdx.org/spdxdocs/{_UNFIT.sub('-', name)}-{identity}"
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _checksum(algorithm: str, value: str) -> dict[str, str]:
    return {"algorithm": algorithm, "checksumValue": value}
