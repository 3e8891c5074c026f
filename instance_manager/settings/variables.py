"""Names of environment variables that an extension volume must not set. Pure."""

from __future__ import annotations

import re

# What begins so steers the server, its loader, its memory or libraries that it shares with us.
RESERVED_PREFIXES = (
    # GLIBC_TUNABLES and MALLOC_* change the allocator of the server (mallopt(3)).
    "GLIBC_",
    "INSTANCE_MANAGER_",
    "KRB5",
    # Programs that the server starts read and print by them.
    "LC_",
    # LD_PRELOAD, LD_AUDIT and the like bring code into each process (ld.so(8)).
    "LD_",
    "MALLOC_",
    # NSS_WRAPPER_* says who an account without a name is.
    "NSS_",
    # OPENSSL_CONF can name a library to load.
    "OPENSSL_",
    # PERL5OPT and PERL5LIB bring code into each interpreter.
    "PERL5",
    # libpq reads them: a standby would connect otherwise than its settings say.
    "PG",
)
RESERVED_NAMES = frozenset(
    {
        # bash(1) runs this file before each script.
        "BASH_ENV",
        # iconv(3) loads libraries from there.
        "GCONV_PATH",
        # libpq looks there for passwords and certificates.
        "HOME",
        "LANG",
        # Other locale data sort otherwise, and indexes on text are wrong then.
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
