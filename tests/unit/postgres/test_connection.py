"""The packet that asks, and what the first message of an answer means."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance_manager.postgres.connection import Answer, judge, sqlstate_of, startup_packet

NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)


def error(state: str) -> bytes:
    """Return the body of an ErrorResponse."""
    return b"SFATAL\0VFATAL\0C" + state.encode() + b"\0Mno\0Fpostmaster.c\0L1\0Rx\0\0"


def test_the_packet_is_that_of_the_manual() -> None:
    """Length, protocol 3.0, pairs of strings, and a NUL: byte for byte."""
    assert startup_packet({"user": "me"}) == (
        b"\x00\x00\x00\x11" + b"\x00\x03\x00\x00" + b"user\0me\0" + b"\0"
    )


@given(st.dictionaries(NAMES, NAMES, max_size=4))
def test_the_length_counts_itself_and_all_that_follows(parameters: dict[str, str]) -> None:
    """The server reads as many bytes as the packet says, and finds the parameters."""
    packet = startup_packet(parameters)
    fields = packet[8:-1].decode().split("\0")[:-1]

    assert struct.unpack("!II", packet[:8]) == (len(packet), 196608)
    assert dict(zip(fields[::2], fields[1::2], strict=True)) == parameters


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        ("57P03", Answer.STARTING),
        ("53300", Answer.ACCEPTS),
        ("28000", Answer.ACCEPTS),
        ("28P01", Answer.ACCEPTS),
        ("3D000", Answer.ACCEPTS),
    ],
)
def test_only_cannot_connect_now_is_a_server_that_lets_nobody_in(
    state: str, answer: Answer
) -> None:
    """Too many clients, no such role and a wrong password are answers of a live server."""
    assert judge(b"E", error(state)) is answer


def test_a_question_for_the_password_is_an_answer() -> None:
    """Whoever asks back accepts connections."""
    assert judge(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0") is Answer.ACCEPTS


@pytest.mark.parametrize("kind", [b"H", b"S", b"\0", b"\xff", b"Z"])
def test_any_other_first_message_is_no_server(kind: bytes) -> None:
    """Somebody else listens there."""
    assert judge(kind, b"") is Answer.SILENT


def test_the_state_is_the_field_c() -> None:
    """A C inside another field is none."""
    assert sqlstate_of(error("57P03")) == "57P03"
    assert sqlstate_of(b"SFATAL\0MC57P03\0\0") == ""
    assert sqlstate_of(b"") == ""


@given(st.binary(max_size=64))
def test_any_bytes_have_a_state_or_none(body: bytes) -> None:
    """A lying server can't make an exception here."""
    assert isinstance(sqlstate_of(body), str)
    assert judge(b"E", body) in {Answer.ACCEPTS, Answer.STARTING}
