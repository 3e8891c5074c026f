"""Reading the bodies of requests."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.api.documents import answer, parse
from instance_manager.api.models import EmptyRequest, FieldProblem, StopRequest
from instance_manager.api.problems import RequestCode, RequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)


def test_an_answer_ends_with_a_newline() -> None:
    """As a line of its own where somebody reads it with curl."""
    assert answer(StopRequest()).body == b'{"mode":null}\n'


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate", None])
def test_a_mode_is_read(mode: str | None) -> None:
    """The three modes of PostgreSQL, or none."""
    assert parse(json.dumps({"mode": mode}).encode(), StopRequest).mode == mode


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"mode": "gentle"}, "mode"),
        ({"mode": 1}, "mode"),
        ({"modus": "fast"}, "modus"),
        ([], ""),
        ("fast", ""),
        (None, ""),
    ],
)
def test_what_does_not_fit_is_invalid_and_named(body: object, path: str) -> None:
    """Unknown fields are errors too."""
    with pytest.raises(RequestError) as caught:
        parse(json.dumps(body).encode(), StopRequest)

    problem = caught.value.problem
    assert (problem.status, problem.code) == (422, RequestCode.INVALID)
    assert problem.errors is not None
    assert [one.path for one in problem.errors] == [path]


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Not only the first."""
    with pytest.raises(RequestError) as caught:
        parse(b'{"mode": "gentle", "force": true}', StopRequest)

    assert caught.value.problem.errors is not None
    assert {one.path for one in caught.value.problem.errors} == {"mode", "force"}
    assert FieldProblem(path="force", message="Extra inputs are not permitted") in (
        caught.value.problem.errors
    )


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"mode=fast",
        b'{"mode": "fast"} {}',
        b'{"mode": "\xff"}',
        b'{"mode": "\xed\xa0\x80"}',
        '{"mode": "fast"}'.encode("utf-16"),
        '{"mode": "fast"}'.encode("utf-32-le"),
        b'{"mode": NaN}',
        b'{"mode": -Infinity}',
        b'{"mode": "fast", "mode": "smart"}',
        b'{"mode": {"a": 1, "a": 1}}',
        b"[" * 60_000,
        b"1" * 5_000,
        b" ",
    ],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    """Other encodings, halves of characters, duplicate keys, odd numbers, depth without end."""
    with pytest.raises(RequestError) as caught:
        parse(body, StopRequest)

    assert (caught.value.problem.status, caught.value.problem.code) == (
        400,
        RequestCode.MALFORMED,
    )


def test_a_byte_order_mark_is_passed_over() -> None:
    """Some editors write one, and RFC 8259 lets a reader be kind."""
    assert parse(b'\xef\xbb\xbf{"mode": "fast"}', StopRequest) == StopRequest(mode="fast")


@settings(max_examples=50)
@given(st.binary() | JSON.map(lambda document: json.dumps(document).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """Nothing that can be sent ends in another error."""
    for model in (StopRequest, EmptyRequest):
        try:
            parse(body, model)
        except RequestError as error:
            assert error.problem.status in {400, 422}  # noqa: PT017 - both ways are good
