"""Our reading of access rules against the server's own, as its views tell it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.configuration.access_rules import hba_problems, ident_problems
from tests.support.plain_server import PlainServer, run_as

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from instance_manager.errors import Problem
    from instance_manager.postgres.embedded import Demonstration

MAJOR = 18
GOOD_RULES = [
    "",
    "# nothing",
    "local all all trust # after the rule",
    'local "all" "a ""b"" c" peer map=x',
    "local all,replication app,+group,/^x md5",
    "local all, template1 all trust",
    "local sameuser all ident",
    "host all all 10.0.0.0/8 scram-sha-256",
    "host all all 10.0.0.1 255.255.255.255 reject",
    "host all all ::1/128 password",
    "host all all fe80::1 ffff:: trust",
    "host all all samehost ident map=m",
    "host all all .example.com trust",
    'host all all "all" trust',
    "hostnossl replication all samenet md5",
    "hostssl all all all cert clientname=DN",
    "hostssl all all all cert clientcert=verify-full map=m",
    "hostssl all all 0.0.0.0/0 scram-sha-256 clientcert=verify-ca",
    "hostgssenc all all 0.0.0.0/0 gss include_realm=0 krb_realm=X",
    "hostnogssenc all all 0.0.0.0/0 pam pamservice=pg",
    "host all all all ldap ldapserver=x ldapport=389 ldapprefix=cn= ldapsuffix=x",
    'host all all all ldap ldapurl="ldap://h/dc=x?uid?sub"',
    "host all all all radius radiusservers=127.0.0.1 radiussecrets=s",
    'host all all all radius radiusservers="127.0.0.1,::1" radiussecrets=s radiusports="1,2"',
    "host all all all ldap ldapserver=x ldapbasedn=y ldapsearchattribute=uid",
]
BAD_RULES = [
    "nonsense",
    "local",
    "local all",
    "local all all",
    "local,host all all trust",
    "local all all nonsense",
    "local all all gss",
    "local all all cert",
    "local all all trust map=x",
    "local all all trust nonsense",
    "local all all md5 clientcert=verify-ca",
    "local all all trust,reject",
    "host all all",
    "host all all trust",
    "host all all 10.0.0.0/33 trust",
    "host all all 10.0.0.0/x trust",
    "host all all 10.0.0.0/ trust",
    "host all all 10.0.0.1 trust",
    "host all all 10.0.0.1 ::1 trust",
    "host all all ::1/129 trust",
    "host all all name/24 trust",
    "host all all a,b trust",
    "host all all 10.0.0.0/8 peer",
    "host all all 10.0.0.0/8 cert",
    "host all all 10.0.0.0/8 trust clientcert=verify-full",
    "hostssl all all all cert clientcert=verify-ca",
    "hostssl all all all cert clientcert=no",
    "hostssl all all all trust clientname=XX",
    "host all all all ldap",
    "host all all all ldap ldapserver=x",
    "host all all all ldap ldapserver=x ldapport=0 ldapprefix=x",
    "host all all all ldap ldapserver=x ldapprefix=x ldapbasedn=y",
    "host all all all ldap ldapserver=x ldapsuffix=x ldapbindpasswd=y",
    "host all all all ldap ldapserver=x ldapbasedn=y ldapsearchattribute=a ldapsearchfilter=b",
    "host all all all radius radiusservers=127.0.0.1",
    'host all all all radius radiusservers=127.0.0.1 radiussecrets="s,t"',
    'host all all all radius radiusservers="127.0.0.1,::1" radiussecrets=s radiusports="1,2,3"',
    "host all all all oauth issuer=https://x",
    "host all all all sspi",
    "host all all all crypt",
]
REFUSED_BY_US = [
    "local @names all trust",
    "host all all @addresses trust",
    "include other",
    "include_if_exists other",
]
GOOD_MAPS = [
    "m a b",
    "m /^(.*)@x$ \\1",
    '"m" "a b" all',
    "m a +group",
    "# none",
    "m a b c",
    'm a b @ "@c"',
]
BAD_MAPS = ["m", "m a", "m,n a b", "m a,b c", "m a b,c", "m a b @missing", "m a b c d,@missing"]
UNKNOWN = "not supported by this build"
WORDS = st.sampled_from(
    [
        *(
            "local",
            "host",
            "hostssl",
            "hostnossl",
            "all",
            "replication",
            "app",
            '"q q"',
            "+g",
            "a,b",
        ),
        *(
            "10.0.0.0/8",
            "10.0.0.1",
            "255.0.0.0",
            "::1/128",
            "::1",
            "10.0.0.0/40",
            "x/8",
            "samenet",
        ),
        *("trust", "md5", "peer", "ident", "cert", "gss", "scram-sha-256", "ldap", "nope"),
        *("map=m", "clientcert=verify-full", "clientname=CN", "pamservice=x", "ldapserver=h", "#"),
        *('"', ",", "a=b", '""', "/^x", "all,all"),
    ]
)
LINES = st.lists(WORDS, max_size=8).map(" ".join) | st.text(
    st.sampled_from(list(' \t",#=/+x10.:')), max_size=12
).map(lambda tail: f"local all all trust{tail}")


class Rules:
    """Files of a running server that it reads when it is asked what is wrong with them."""

    def __init__(self, place: Path, session: psycopg.Connection[Any]) -> None:
        self._place = place
        self._session = session

    def faults(self, file: str, view: str, lines: Sequence[str]) -> dict[int, str]:
        """Return the server's complaint about each line that it does not take."""
        path = self._place / file
        path.write_text(
            "local all all trust\n" * (file == "pg_hba.conf") + "\n".join(lines) + "\n"
        )
        first = 1 + (file == "pg_hba.conf")
        # The names of files and views are ours.
        query = f"SELECT line_number, error FROM {view} WHERE error IS NOT NULL"  # noqa: S608
        rows = self._session.execute(query.encode()).fetchall()
        return {int(number) - first: error for number, error in rows}


@pytest.fixture(scope="module")
def rules(server: Demonstration, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rules]:
    """Run a server that reads the files of a directory."""
    place = tmp_path_factory.mktemp("rules")
    place.chmod(0o755)
    for parent in place.parents[:2]:
        parent.chmod(0o755)
    if who := run_as():
        os.chown(place, who["user"], who["group"])
    plain = PlainServer(server, place)
    with (
        plain.running(ident_file=str(place / "pg_ident.conf")),
        psycopg.connect(
            f"host={place} user=postgres dbname=postgres client_encoding=UTF8", autocommit=True
        ) as session,
    ):
        yield Rules(place, session)


def require_agreement(lines: Sequence[str], ours: set[int], theirs: dict[int, str]) -> None:
    """Fail where the server takes what we refuse, or the other way round.

    What it was built without it can't judge.
    """
    for number, line in enumerate(lines):
        error = theirs.get(number, "")
        if UNKNOWN not in error:
            assert (number in ours) == bool(error), (line, error)


def numbers(problems: Iterator[Problem]) -> set[int]:
    """Return which lines have a problem."""
    return {int(problem.path.split(".")[1]) for problem in problems}


def test_rules_are_taken_and_refused_as_by_the_server(rules: Rules) -> None:
    """Each of these lines, the good ones and the bad ones."""
    lines = [*GOOD_RULES, *BAD_RULES]
    ours, theirs = (
        numbers(hba_problems(lines, "hba", MAJOR)),
        rules.faults("pg_hba.conf", "pg_hba_file_rules", lines),
    )

    require_agreement(lines, ours, theirs)
    assert ours == set(range(len(GOOD_RULES), len(lines)))


def test_maps_are_taken_and_refused_as_by_the_server(rules: Rules) -> None:
    """Each of these lines, the good ones and the bad ones."""
    lines = [*GOOD_MAPS, *BAD_MAPS]
    ours, theirs = (
        numbers(ident_problems(lines, "ident", MAJOR)),
        rules.faults("pg_ident.conf", "pg_ident_file_mappings", lines),
    )

    require_agreement(lines, ours, theirs)
    assert ours == set(range(len(GOOD_MAPS), len(lines)))


@settings(max_examples=40, deadline=None)
@given(st.lists(LINES, min_size=20, max_size=60))
def test_rules_of_any_words_are_taken_and_refused_as_by_the_server(
    rules: Rules, lines: list[str]
) -> None:
    """Whatever words stand in which order."""
    ours = numbers(hba_problems(lines, "hba", MAJOR))
    theirs = rules.faults("pg_hba.conf", "pg_hba_file_rules", lines)

    require_agreement(lines, ours, theirs)


@pytest.mark.parametrize("line", REFUSED_BY_US)
def test_what_would_read_other_files_is_refused(line: str) -> None:
    """The server would take it; but what those files say is not checked."""
    (problem,) = hba_problems([line], "hba", MAJOR)

    assert problem.path == "hba.0"
    assert "another file" in problem.message or "from a file" in problem.message
