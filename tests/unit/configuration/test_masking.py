"""Secrets of a configuration document are hidden, and come back where their masks do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.configuration.masking import (
    MASK,
    mask_document,
    mask_problems,
    mask_text,
    mask_value,
    unmask_document,
)

SECRET = "s3cret"
DOCUMENT: dict[str, Any] = {
    "parameters": {
        "primary_conninfo": f"host=a password='{SECRET} x' user=b",
        "work_mem": "4MB",
        "ssl_passphrase_command": f"echo {SECRET}",
    },
    "shared_preload_libraries": ["a"],
    "hba": ["local all all peer", f"host all all all ldap ldapbindpasswd={SECRET} ldapprefix=x"],
    "ident": [],
    "volumes": [
        {
            "name": "s3",
            "env": [{"name": "AWS_SECRET", "value": SECRET}, {"name": "X", "value": "1"}],
        },
        {"name": "plain"},
    ],
    "databases": [],
}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("password=x user=y", f"password={MASK} user=y"),
        (r"password = 'a \' b' user=y", f"password = {MASK} user=y"),
        ("PASSWORD='a''b' x", f"PASSWORD={MASK} x"),
        ("postgresql://u:p@h/d postgres://u@h", f"postgresql://u:{MASK}@h/d postgres://u@h"),
        ('radiussecrets="a, b" x', f"radiussecrets={MASK} x"),
        ("sslpassword=a,b", f"sslpassword={MASK}"),
        ("host=p password=ab,s3 user=u", f"host=p password={MASK} user=u"),
        (r"host=p password=ab\ s3 user=u", f"host=p password={MASK} user=u"),
        ("host=p password=ab's3 user=u", f"host=p password={MASK} user=u"),
        ('host=p password=ab"s3 user=u', f"host=p password={MASK} user=u"),
        ("x radius radiussecrets=ab's3", f"x radius radiussecrets={MASK}"),
        ('x radius radiussecrets=ab"b, s3" y', f"x radius radiussecrets={MASK} y"),
        ('x radius "radiussecrets"=s3 y', f'x radius "radiussecrets"={MASK} y'),
        ("postgres://h/d?pass%77ord=s3&a=%20b", f"postgres://h/d?pass%77ord={MASK}&a=%20b"),
        ("postgres://h/d?password=s3&a=b", f"postgres://h/d?password={MASK}"),
        ("PGPASSWORD=x cp %p /a", f"PGPASSWORD={MASK} cp %p /a"),
        ("AWS_SECRET_ACCESS_KEY='x y' a", f"AWS_SECRET_ACCESS_KEY={MASK} a"),
        ("API_KEY=x", f"API_KEY={MASK}"),
        ("a --client-secret=x", f"a --client-secret={MASK}"),
        ('-H "Authorization: Bearer abc.def-gh=="', f'-H "Authorization: Bearer {MASK}"'),
        ("curl -H 'authorization: basic dXNlcjpwYXNz'", f"curl -H 'authorization: basic {MASK}'"),
        ("a basic need", "a basic need"),
        ("nothing of the kind", "nothing of the kind"),
        ("", ""),
    ],
)
def test_passwords_are_hidden_wherever_they_stand(text: str, masked: str) -> None:
    """In each of the forms that libpq and the rules know."""
    assert mask_text(text) == masked


def test_a_command_that_prints_a_passphrase_is_hidden_as_a_whole() -> None:
    """It may hold the passphrase itself."""
    assert mask_value("SSL_passphrase_command", "echo x") == MASK
    assert mask_value("ssl_passphrase_command", "") == ""


def test_no_secret_is_left_in_a_masked_document() -> None:
    """And what is none stays as it is."""
    masked = mask_document(DOCUMENT)

    assert SECRET not in json.dumps(masked)
    assert masked["parameters"]["work_mem"] == "4MB"
    assert masked["volumes"][0]["env"][1] == {"name": "X", "value": "1"}


def test_a_masked_document_that_comes_back_is_the_one_that_it_was() -> None:
    """With other parts changed, too."""
    changed = {**mask_document(DOCUMENT), "shared_preload_libraries": ["b"]}

    back = unmask_document(changed, DOCUMENT)

    assert back == {**DOCUMENT, "shared_preload_libraries": ["b"]}
    assert not list(mask_problems(back))


def test_a_mask_that_stands_for_nothing_is_told() -> None:
    """By the place where it stands."""
    document = {"parameters": {"a.b": MASK}, "hba": [f"x {MASK}"], "volumes": [{"name": MASK}]}

    paths = [problem.path for problem in mask_problems(unmask_document(document, DOCUMENT))]

    assert paths == ["parameters.a.b", "hba.0", "volumes.0.name"]


JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8) | st.just(MASK),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "env", "value", "hba", "volumes", "x"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(list(DOCUMENT)), JSON))
def test_what_comes_in_may_be_anything(document: dict[str, Any]) -> None:
    """What is no document is left to those who judge it, as it is."""
    back = unmask_document(document, DOCUMENT)

    assert back.keys() == document.keys()
    assert all(problem.path for problem in mask_problems(back))


@pytest.mark.parametrize(
    "line",
    [
        f'host all all all ldap "ldapbindpasswd=hun {SECRET}" ldapprefix=x',
        f'host all all all radius "radiussecrets=""a"",""{SECRET}"""',
    ],
)
def test_an_option_within_quotes_is_hidden_up_to_its_end(line: str) -> None:
    """Blanks, commas and doubled quotes belong to the secret."""
    assert SECRET not in mask_text(line)


def test_rules_that_differ_in_their_secrets_alone_keep_them() -> None:
    """Each gets its own back: they look alike, and have an order."""
    lines = [f"host all all all ldap ldapprefix=x ldapbindpasswd={one}" for one in "ab"]
    document = {**DOCUMENT, "hba": lines}

    assert unmask_document(mask_document(document), document)["hba"] == lines


@pytest.mark.parametrize("sent", [["a"], ["a", "b", "b"]])
def test_a_mask_that_may_stand_for_either_of_two_secrets_is_told(sent: list[str]) -> None:
    """One of the rules was taken away or added, and nobody can tell which."""
    lines = [f"host all all all ldap ldapprefix=x ldapbindpasswd={one}" for one in "ab"]
    document = {**DOCUMENT, "hba": lines}
    masked = mask_text(lines[0])

    back = unmask_document({**mask_document(document), "hba": [masked for _ in sent]}, document)

    assert back["hba"] == [masked for _ in sent]
    assert len(list(mask_problems(back))) == len(sent)


def test_a_long_word_is_no_burden() -> None:
    """It takes time in proportion to its length: its square would be hours."""
    text = "a." * 500_000

    assert mask_text(text) == text
