"""Where the kernel counts its kills for want of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from instance_manager.postgres.memory import files_of, limit_bytes, oom_kills

UNIFIED = "30 23 0:26 {root} /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n"
MEMORY = "36 32 0:31 {root} /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory\n"
OTHERS = (
    "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
    "37 32 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "torn\n"
)

COUNTERS = ("memory.events", "memory.oom_control")
"""Of version 2, and of version 1."""


@pytest.mark.parametrize(
    ("membership", "mounts", "expected"),
    [
        ("0::/\n", UNIFIED.format(root="/"), "/sys/fs/cgroup/memory.events"),
        (
            "0::/user.slice/a b:c\n",
            UNIFIED.format(root="/"),
            "/sys/fs/cgroup/user.slice/a b:c/memory.events",
        ),
        ("0::/../../pod/us\n", UNIFIED.format(root="/"), "/sys/fs/cgroup/memory.events"),
        (
            "5:cpu:/other\n4:memory:/docker/us\n0::/\n",
            MEMORY.format(root="/docker/us"),
            "/sys/fs/cgroup/memory/memory.oom_control",
        ),
        (
            "4:hugetlb,memory:/system.slice/us\n",
            MEMORY.format(root="/"),
            "/sys/fs/cgroup/memory/system.slice/us/memory.oom_control",
        ),
        (
            "4:memory:/elsewhere\n",
            MEMORY.format(root="/docker/us"),
            "/sys/fs/cgroup/memory/memory.oom_control",
        ),
        (
            "0::/a\n",
            r"30 23 0:26 / /with\040space rw - cgroup2 cgroup rw",
            "/with space/a/memory.events",
        ),
    ],
)
def test_the_counter_is_that_of_our_own_cgroup(
    membership: str, mounts: str, expected: str
) -> None:
    """On hosts, in containers and in their cgroup namespaces, of both versions."""
    assert list(files_of(membership, OTHERS + mounts, *COUNTERS)) == [Path(expected)]


@pytest.mark.parametrize("membership", ["", "0::/\n", "nonsense\n", "4:memory:/\n"])
def test_without_a_mount_there_is_no_counter(membership: str) -> None:
    """Nobody knows, and nothing breaks."""
    assert list(files_of(membership, OTHERS, *COUNTERS)) == []


def test_both_versions_at_once_are_both_looked_at() -> None:
    """A hybrid host counts memory in one of them only."""
    files = files_of(
        "4:memory:/us\n0::/us\n", UNIFIED.format(root="/") + MEMORY.format(root="/"), *COUNTERS
    )

    assert [file.name for file in files] == ["memory.events", "memory.oom_control"]


def test_our_own_counter_is_a_number_or_unknown() -> None:
    """Whatever this host is, the answer is one of the two."""
    found = oom_kills()

    assert found is None or found >= 0


def test_our_own_limit_is_a_number_of_bytes_or_none() -> None:
    """What version 1 says where there is none is no limit."""
    found = limit_bytes()

    assert found is None or 0 < found < 1 << 60
