"""Server-sent events as text."""

from __future__ import annotations

import pytest

from instance_manager.api.event_stream import (
    HEARTBEAT,
    Message,
    Parser,
    StreamError,
    render,
    render_retry,
)

STREAM = (
    render_retry(2)
    + render("message", '{"a": "é"}', "r-1")
    + HEARTBEAT
    + render("missed", "{}")
    + render("message", '{"b": 2}', "r-2")
)
MESSAGES = [
    Message("message", '{"a": "é"}', "r-1"),
    Message("missed", "{}", "r-1"),
    Message("message", '{"b": 2}', "r-2"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_what_was_written_is_read_wherever_it_is_cut(size: int) -> None:
    """Also in the middle of a character."""
    parser = Parser()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]

    assert [message for piece in pieces for message in parser.feed(piece)] == MESSAGES


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 1000])
def test_all_ends_of_lines_are_read(end: bytes, size: int) -> None:
    """The standard knows three."""
    text = b"\xef\xbb\xbf" + STREAM.replace(b"\n", end) + b":\n"
    parser = Parser()
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    assert [message for piece in pieces for message in parser.feed(piece)] == MESSAGES


def test_a_message_may_have_several_lines_and_fields_that_nobody_knows() -> None:
    """Lines of data are joined; without data there is no message, and the id counts still."""
    text = b"id: 7\n\nnew: x\ndata:a\ndata: b\ndata\n\nid: 8\ndata: half"

    assert list(Parser("6").feed(text)) == [Message("message", "a\nb\n", "7")]


@pytest.mark.parametrize("line", [b"x" * (1 << 21), (b"data: " + b"x" * 60000 + b"\n") * 100])
def test_a_reader_keeps_no_more_than_a_message_can_have(line: bytes) -> None:
    """Whoever sends for ever is not listened to for ever."""
    with pytest.raises(StreamError):
        list(Parser().feed(line))
