"""The memory and the cores of a container, as the files of cgroups say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.process.limits import Memory, count_cores, find_memory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MEMINFO = "MemTotal:       8000 kB\nMemFree:        100 kB\nMemAvailable:   6000 kB\n"


def system(root: Path, cgroup: str, files: Mapping[str, object]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def test_without_a_limit_the_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/\n", {"memory.max": "max", "memory.current": 5, "cgroup.procs": ""})
    assert find_memory(root) == Memory(6000 * 1024, 8000 * 1024)


def test_cached_files_count_as_available(tmp_path: Path) -> None:
    files = {
        "memory.max": 1_000_000,
        "memory.current": 900_000,
        "memory.stat": "anon 7\ninactive_file 300000\nactive_file 200000",
    }
    assert find_memory(system(tmp_path, "0::/\n", files)) == Memory(600_000, 1_000_000)


def test_the_tightest_of_all_groups_above_counts(tmp_path: Path) -> None:
    files = {
        "a/memory.max": 500_000,
        "a/memory.current": 100_000,
        "a/b/memory.max": 700_000,
        "a/b/memory.current": 650_000,
    }
    assert find_memory(system(tmp_path, "0::/a/b\n", files)) == Memory(50_000, 500_000)


def test_the_first_version_of_cgroups_is_read_too(tmp_path: Path) -> None:
    files = {
        "memory/pod/memory.limit_in_bytes": 1_000_000,
        "memory/pod/memory.usage_in_bytes": 800_000,
        "memory/pod/memory.stat": "total_inactive_file 100000\ntotal_active_file 0",
        "memory/memory.limit_in_bytes": 9223372036854771712,
        "memory/memory.usage_in_bytes": 1,
    }
    root = system(tmp_path, "5:memory:/pod\n3:cpu,cpuacct:/pod\n", files)
    assert find_memory(root) == Memory(300_000, 1_000_000)


def test_a_system_that_says_nothing_is_unknown(tmp_path: Path) -> None:
    assert find_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "100000 100000"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        (
            "3:cpu,cpuacct:/p\n",
            {"cpu,cpuacct/p/cpu.cfs_quota_us": 100000, "cpu,cpuacct/p/cpu.cfs_period_us": 100000},
            1,
        ),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("3:cpu:/p\n", {"cpu/p/cpu.cfs_quota_us": -1, "cpu/p/cpu.cfs_period_us": 100000}, None),
    ],
)
def test_the_cores_are_those_of_the_quota(
    tmp_path: Path, cgroup: str, files: Mapping[str, object], expected: int | None
) -> None:
    everywhere = count_cores(tmp_path / "nothing")
    assert count_cores(system(tmp_path, cgroup, files)) == (everywhere if expected is None else expected)


def test_this_machine_has_memory() -> None:
    memory = find_memory()
    assert memory is not None
    assert 0 < memory.available_bytes <= memory.limit_bytes
