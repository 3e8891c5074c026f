"""Places for connections: bounded, and the oldest idle one goes first."""

from __future__ import annotations

import pytest

from instance_manager.api.places import Places, fair_share


class Visitor:
    """A guest that remembers whether it was sent away."""

    def __init__(self, *, is_idle: bool = True) -> None:
        self.is_idle = is_idle
        self.is_gone = False

    def abort(self) -> None:
        """Go."""
        self.is_gone = True


def test_the_oldest_idle_guest_gives_way() -> None:
    """Whoever waits for an answer stays."""
    places = Places(3)
    busy, first, second, new = Visitor(is_idle=False), Visitor(), Visitor(), Visitor()
    for guest in (busy, first, second, new):
        places.take(guest)

    assert [guest.is_gone for guest in (busy, first, second, new)] == [False, True, False, False]
    assert len(places) == 3


def test_where_nobody_is_idle_the_oldest_goes() -> None:
    """Nobody can keep all others out by asking for what takes long."""
    places = Places(2)
    guests = [Visitor(is_idle=False) for _ in range(3)]
    for guest in guests:
        places.take(guest)

    assert [guest.is_gone for guest in guests] == [True, False, False]


def test_a_place_that_was_left_is_free() -> None:
    """Also one that was never taken."""
    places = Places(1)
    first, second = Visitor(), Visitor()
    places.take(first)
    places.leave(first)
    places.leave(second)
    places.take(second)

    assert not first.is_gone


@pytest.mark.parametrize(
    ("descriptors", "share"), [(64, 32), (256, 32), (1024, 256), (20000, 1024), (1 << 30, 1024)]
)
def test_the_bound_leaves_descriptors_to_others(descriptors: int, share: int) -> None:
    """And is never so small that nobody gets in."""
    assert fair_share(descriptors) == share
