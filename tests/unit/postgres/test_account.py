"""The account that postgres runs as: found, refused, reached, named."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from instance_manager.errors import SettingsError
from instance_manager.postgres import account
from instance_manager.postgres.account import Account

STRANGER = Account(uid=54321, gid=54322, name=None)


def ordinary() -> pwd.struct_passwd:
    """Return an entry of this system that is not root's."""
    return next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)


def unused_id() -> int:
    """Return a user id without an entry."""
    used = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in range(50_000, 60_000) if uid not in used)


def reach(directory: Path, mode: int, owner: Account | None = None) -> list[str]:
    """Say what stops *owner* (default: a stranger) on the way to a file in a directory."""
    directory.mkdir(exist_ok=True)
    directory.chmod(mode)
    found = account.unreachable(owner or STRANGER, [directory / "file"])
    return [one for one in found if one.startswith(f"{directory} ")]


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a directory that everybody can reach, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="im-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    for path in directory.iterdir():
        path.chmod(0o700)
    shutil.rmtree(directory)


def test_an_account_is_found_by_its_name() -> None:
    """Id, group and name come from its entry."""
    entry = ordinary()

    assert account.find(entry.pw_name) == Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def test_an_account_is_found_by_its_number() -> None:
    """The entry that has the number gives group and name."""
    entry = pwd.getpwuid(ordinary().pw_uid)

    assert account.find(str(entry.pw_uid)) == Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def test_a_number_without_an_entry_is_an_account_without_a_name() -> None:
    """Containers run with such numbers; peer authentication then sees the wrapper's name."""
    uid = unused_id()
    found = account.find(str(uid))

    assert found == Account(uid, uid, None)
    assert found.login == "postgres"
    assert str(found) == f"uid {uid}"


def test_an_account_with_a_name_says_both() -> None:
    """People know the name, the kernel the number."""
    found = Account(26, 26, "pg")

    assert found.login == "pg"
    assert str(found) == "user 'pg' (uid 26)"


@pytest.mark.parametrize("run_as", ["root", "0", "00"])
def test_root_is_refused(run_as: str) -> None:
    """Postgres would refuse too, but later and without the name of the setting."""
    with pytest.raises(SettingsError, match="postgres refuses to run as root") as caught:
        account.find(run_as)

    assert caught.value.problems[0].path == "postgres.run_as"


@pytest.mark.parametrize("run_as", ["no-such-user", "", "-1", "1.5", "0x1a", "post gres"])
def test_a_name_that_nobody_has_is_refused_by_name(run_as: str) -> None:
    """The hint names the setting."""
    with pytest.raises(SettingsError) as caught:
        account.find(run_as)

    assert f"there is no user {run_as!r}" in caught.value.message
    assert "postgres.run_as" in caught.value.hint


@pytest.mark.parametrize("run_as", ["4294967295", "4294967296", "99999999999999999999"])
def test_a_number_that_is_no_user_id_is_refused(run_as: str) -> None:
    """The kernel takes the largest one for "leave it as it is": as root, that would be root."""
    with pytest.raises(SettingsError):
        account.find(run_as)


@pytest.mark.parametrize("run_as", ["\u00b2", "\u0661\u0662"])
def test_other_scripts_digits_are_no_number(run_as: str) -> None:
    """Only what the system's own tools take for a number is one."""
    with pytest.raises(SettingsError, match="there is no user"):
        account.find(run_as)


def test_the_account_of_this_process_is_known() -> None:
    """It is what postgres runs as where root does not start it."""
    assert (account.current().uid, account.current().gid) == (os.geteuid(), os.getegid())


@pytest.mark.parametrize(
    ("mode", "reachable"), [(0o755, True), (0o711, True), (0o001, True), (0o776, False)]
)
def test_a_stranger_needs_the_right_to_search_that_others_have(
    place: Path, mode: int, reachable: bool
) -> None:
    """Read without search opens nothing."""
    assert (reach(place / "a", mode) == []) is reachable


@pytest.mark.parametrize(("mode", "reachable"), [(0o710, True), (0o701, False)])
def test_a_member_of_the_group_is_judged_by_the_group_alone(
    place: Path, mode: int, reachable: bool
) -> None:
    """As the kernel does: what others may is not for members."""
    member = Account(STRANGER.uid, os.getegid(), None)
    (place / "a").mkdir()
    os.chown(place / "a", -1, member.gid)

    assert (reach(place / "a", mode, member) == []) is reachable


@pytest.mark.parametrize(("mode", "reachable"), [(0o100, True), (0o677, False)])
def test_the_owner_is_judged_by_the_owners_bits_alone(
    place: Path, mode: int, reachable: bool
) -> None:
    """A mode that shuts out its owner shuts out its owner."""
    assert (reach(place / "a", mode, account.current()) == []) is reachable


def _member_of_another_group() -> tuple[int, str] | None:
    """Return a group and one of its members, whose primary group is another one."""
    members = ((group.gr_gid, name) for group in grp.getgrall() for name in group.gr_mem)
    return next((found for found in members if _is_other_group(*found)), None)


def _is_other_group(gid: int, name: str) -> bool:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return False
    return entry.pw_uid != 0 and entry.pw_gid != gid


MEMBER = _member_of_another_group()

if os.geteuid() == 0 and MEMBER is not None:  # not every system has such an account

    def test_a_member_of_another_group_of_the_account_is_let_in(place: Path) -> None:
        """Becoming an account means to get all its groups, so all of them count."""
        assert MEMBER is not None
        gid, name = MEMBER
        (place / "a").mkdir()
        os.chown(place / "a", 0, gid)

        assert reach(place / "a", 0o750, account.find(name)) == []


def test_the_first_closed_directory_is_named_once_with_mode_and_owner(place: Path) -> None:
    """Several paths behind one door are one message."""
    (place / "closed" / "inner").mkdir(parents=True)
    (place / "closed" / "inner").chmod(0o700)
    (place / "closed").chmod(0o750)
    paths = [place / "closed" / "inner" / name for name in ("a", "b")]
    owner = account.current().name or os.geteuid()

    assert account.unreachable(STRANGER, paths) == [
        f"{place / 'closed'} (mode 0750, owner {owner})"
    ]


def test_what_everybody_may_enter_is_reachable() -> None:
    """The system's own programs are open to all."""
    assert account.unreachable(STRANGER, [Path("/usr/bin/env"), Path("/bin/sh")]) == []


def test_a_group_is_known_by_name_and_by_number() -> None:
    """Both forms are settings."""
    entry = grp.getgrgid(0)

    assert account.group_id(entry.gr_name) == 0
    assert account.group_id("12345") == 12345


@pytest.mark.parametrize("group", ["no-such-group", "\u00b2", "\u0661", "4294967295", "9" * 30])
def test_a_group_that_there_can_not_be_is_none(group: str) -> None:
    """Neither digits of other scripts nor a number that no group can have."""
    with pytest.raises(KeyError):
        account.group_id(group)


def test_an_account_with_a_name_needs_no_wrapper(tmp_path: Path) -> None:
    """Nothing is set and nothing is written."""
    assert account.naming_environment(Account(26, 26, "pg"), tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_nameless_account_gets_a_name_or_is_told_what_is_missing(tmp_path: Path) -> None:
    """With libnss_wrapper its files say who it is; without, the refusal names the package."""
    places = ("lib*/libnss_wrapper.so", "lib/*/libnss_wrapper.so")
    wrapper = [path for place in places for path in Path("/usr").glob(place)]
    if not wrapper:
        with pytest.raises(SettingsError) as caught:
            account.naming_environment(STRANGER, tmp_path)
        assert "uid 54321" in caught.value.message
        assert "libnss-wrapper" in caught.value.hint
        assert list(tmp_path.iterdir()) == []
        return
    found = account.naming_environment(STRANGER, tmp_path)

    assert Path(found["LD_PRELOAD"]) in wrapper
    passwd = Path(found["NSS_WRAPPER_PASSWD"]).read_text()
    assert passwd.split(":")[:4] == ["postgres", "x", "54321", "54322"]
    assert Path(found["NSS_WRAPPER_GROUP"]).read_text().split(":")[2] == "54322"
