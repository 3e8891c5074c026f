"""What a host can never give."""

from __future__ import annotations

import pytest

from instance_manager.postgres import shared_memory
from instance_manager.postgres.shared_memory import shortage

HOST = """MemTotal:        8388608 kB
SwapTotal:       1048576 kB
CommitLimit:     5242880 kB
HugePages_Total:      64
Hugepagesize:       2048 kB
"""


def asked(megabytes: int, huge_pages: str = "try", *, policy: str = "0", more: str = "0") -> str:
    """Ask a host of 8 GiB with 1 GiB of swap and 128 MiB in huge pages."""
    files = {
        shared_memory.MEMORY: HOST,
        shared_memory.OVERCOMMIT: f"{policy}\n",
        shared_memory.MORE_HUGE_PAGES: f"{more}\n",
    }
    return shortage(megabytes, huge_pages, lambda path: files[path])


@pytest.mark.parametrize(("policy", "most"), [("0", 9 * 1024), ("2", 5 * 1024)])
def test_more_than_the_kernel_ever_maps_is_too_much(policy: str, most: int) -> None:
    """Memory and swap, or the limit that its owner has set."""
    assert asked(most, policy=policy) == ""
    assert asked(most + 1, policy=policy) == (
        f"it needs {most + 1} MB of shared memory, and the host has {most} MB with its swap space"
    )


def test_a_kernel_that_promises_anything_is_believed() -> None:
    """Then nothing is refused when it is mapped."""
    assert asked(10**6, policy="1") == ""


@pytest.mark.parametrize("value", ["on", "TRUE", " 1 "])
def test_huge_pages_that_must_be_are_counted(value: str) -> None:
    """Those that the kernel may make, too."""
    assert asked(128, value) == ""
    assert "129 MB of shared memory in huge pages, and the host has 128 MB" in asked(129, value)
    assert asked(129, value, more="1") == ""


@pytest.mark.parametrize("value", ["try", "off", "", "nonsense"])
def test_huge_pages_that_need_not_be_are_not_counted(value: str) -> None:
    """The server goes without them."""
    assert asked(4096, value) == ""


def test_a_host_that_tells_nothing_is_believed() -> None:
    """The start will show it."""
    assert shortage(10**9, "on", lambda _: "") == ""
