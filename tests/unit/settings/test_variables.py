from __future__ import annotations

import pytest

from instance_manager.settings import is_reserved_variable, variable_problem


@pytest.mark.parametrize(
    "name",
    [
        "PGDATA",
        "PG",
        "LD_PRELOAD",
        "MALLOC_ARENA_MAX",
        "GLIBC_TUNABLES",
        "INSTANCE_MANAGER_CONFIG",
        "OPENSSL_CONF",
        "KRB5_CONFIG",
        "NSS_WRAPPER_PASSWD",
        "LC_ALL",
        "PERL5LIB",
        "PATH",
        "HOME",
        "LANG",
        "TZ",
        "TMPDIR",
        "BASH_ENV",
        "LOCPATH",
        "GCONV_PATH",
        "PYTHONSTARTUP",
        "pgdata",
        "Path",
    ],
)
def test_reserved_names_are_refused(name: str) -> None:
    """Every name and prefix of the list is reserved, in any case."""
    assert is_reserved_variable(name)
    assert "reserved" in variable_problem(name)


@pytest.mark.parametrize(
    "name", ["PROJ_DATA", "GDAL_DATA", "R_HOME", "LANGUAGE", "HOMEPAGE", "TZDIR", "MY_PATH", "_"]
)
def test_other_names_are_free(name: str) -> None:
    """What only resembles a reserved name may be set."""
    assert variable_problem(name) == ""


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "Ä"])
def test_what_no_shell_could_name_is_refused(name: str) -> None:
    """A name has letters, digits and underscores."""
    assert "must be a name" in variable_problem(name)


@pytest.mark.parametrize(
    ("name", "key"), [("PATH", "bin_path"), ("LD_LIBRARY_PATH", "ld_library_path")]
)
def test_a_search_path_names_the_key_to_use(name: str, key: str) -> None:
    """Where there is a key for it, the problem says which."""
    assert variable_problem(name).endswith(f"use {key}")
