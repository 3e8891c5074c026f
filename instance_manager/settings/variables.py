"""Names of environment variables that an extension volume must not set. Pure."""

from __future__ import annotations

import re

# What begins so steers the server, its loader, its memory or libraries that it shares with us.
RESERVED_PREFIXES = (
    "GLIBC_",
    "INSTANCE_MANAGER_",
    "KRB5",
    "LC_",
    "LD_",
    "MALLOC_",
    "NSS_",
    "OPENSSL_",
    "PERL5",
    "PG",
)
RESERVED_NAMES = frozenset(
    {
        "BASH_ENV",
        "GCONV_PATH",
        "HOME",
        "LANG",
        "LOCPATH",
        "PATH",
        "PYTHONSTARTUP",
        "TMPDIR",
        "TZ",
    }
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_reserved_variable(name: str) -> bool:
    """Whether a volume may not set *name*, whatever its case."""
    upper = name.upper()
    return upper in RESERVED_NAMES or upper.startswith(RESERVED_PREFIXES)


def variable_problem(name: str) -> str:
    """Return why a volume can't set the variable *name*; empty if it can."""
    if not _NAME.fullmatch(name):
        return f"must be a name of letters, digits and _, not {name!r}"
    if not is_reserved_variable(name):
        return ""
    way_out = {"PATH": "; use bin_path", "LD_LIBRARY_PATH": "; use ld_library_path"}
    return f"{name!r} is reserved and can't be set by a volume{way_out.get(name.upper(), '')}"
