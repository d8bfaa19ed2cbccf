"""The CPU time of a program's processes and threads while it runs, from /proc."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MAIN_THREAD = "main thread"

THREADS_SECONDS = 0.05
"""Time between two readings of the threads, in seconds. What a thread computes after its last reading is missed."""

TREE_SECONDS = 0.5
"""Time between two searches for new processes, in seconds. A process that lives for a shorter time may be missed."""

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessCpu(NamedTuple):
    """CPU time of one process, its children not counted."""

    parent: int
    """Place of the parent in the list of processes, -1 for the first process."""
    command: tuple[str, ...]
    """The command line."""
    cpu_seconds: float
    """CPU time of all threads, also of those that were missed."""
    threads: dict[str, float]
    """CPU time in seconds by the names of threads. Threads of one name are told apart by a number."""
    early_threads: frozenset[str]
    """Names of the threads that had ended when half of the program's time was over."""


class _Stat(NamedTuple):
    """What /proc tells about a process or a thread."""

    name: str
    """The first 15 characters of its name."""
    parent: int
    cpu_seconds: float
    started: int


class CpuWatch:
    """Reads the CPU times of a process and of its descendants, as often as `sample` is called."""

    def __init__(self, root: int) -> None:
        self._parents = {root: 0}
        self._commands: dict[int, tuple[str, ...]] = {}
        self._seconds: dict[int, float] = {}
        self._threads: dict[tuple[int, int, int], _Stat] = {}
        self._last_seen: dict[tuple[int, int, int], float] = {}
        self._started = self._read_at = time.monotonic()
        self._next_threads = self._next_tree = 0.0

    def sample(self) -> None:
        """Read what is due."""
        now = time.monotonic()
        if now >= self._next_tree:
            self._next_tree = now + TREE_SECONDS
            self._find_descendants()
        if now >= self._next_threads:
            self._next_threads = now + THREADS_SECONDS
            self.read()

    def read(self) -> None:
        """Read all processes now. A process that has ended still has its total until it is waited for."""
        self._read_at = time.monotonic()
        for process in self._parents:
            self._read(process)

    def _find_descendants(self) -> None:
        parents = _parents()
        found = list(self._parents)
        for process in found:
            new = [child for child, parent in parents.items() if parent == process and child not in self._parents]
            # The first parent counts: another process inherits it when its parent ends.
            self._parents.update(dict.fromkeys(new, process))
            found += new

    def _read(self, process: int) -> None:
        stat = _stat(f"/proc/{process}/stat")
        if stat is None:
            return
        self._seconds[process] = stat.cpu_seconds
        # A process that has just been forked has its parent's command line until it executes its own.
        self._commands[process] = _command(process) or self._commands.get(process, ())
        with suppress(OSError):  # it has ended
            for thread in map(int, os.listdir(f"/proc/{process}/task")):  # noqa: PTH208 - twenty times a second
                read = _stat(f"/proc/{process}/task/{thread}/stat")
                if read is not None:
                    self._threads[process, thread, read.started] = read
                    self._last_seen[process, thread, read.started] = self._read_at

    def processes(self) -> list[ProcessCpu]:
        """Return what was read, the first process first."""
        places = {process: place for place, process in enumerate(self._seconds)}
        half = (self._started + self._read_at) / 2
        found = []
        for process, seconds in self._seconds.items():
            named = self._named(process)
            found.append(
                ProcessCpu(
                    parent=places.get(self._parents[process], -1),
                    command=self._commands[process],
                    cpu_seconds=seconds,
                    threads={name: self._threads[key].cpu_seconds for name, key in named.items()},
                    early_threads=frozenset(name for name, key in named.items() if self._last_seen[key] < half),
                )
            )
        return found

    def _named(self, process: int) -> dict[str, tuple[int, int, int]]:
        """Return the keys of a process's threads by name, in the order of their numbers."""
        counts: Counter[str] = Counter()
        named = {}
        for key, read in sorted(self._threads.items()):
            if key[0] == process:
                name = MAIN_THREAD if key[1] == process else read.name
                counts[name] += 1
                named[name if counts[name] == 1 else f"{name} {counts[name]}"] = key
        return named


def children(process: int) -> list[int]:
    """Return the children of a process, those that have ended and are not waited for among them."""
    return [child for child, parent in _parents().items() if parent == process]


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a running process so far, in seconds. The clock's unit is 10 ms."""
    stat = _stat(f"/proc/{process}/stat")
    if stat is None:
        raise ProcessLookupError(f"process {process} has ended")
    return stat.cpu_seconds


def _parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and (stat := _stat(f"/proc/{name}/stat")) is not None:
            found[int(name)] = stat.parent
    return found


def _stat(path: str) -> _Stat | None:
    try:
        text = Path(path).read_text("utf-8", errors="replace")
    except OSError:  # it has ended
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()  # from the state on, which is field 3 in the manual page of proc
    return _Stat(
        head.partition("(")[2], int(fields[1]), (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS, int(fields[19])
    )


def _command(process: int) -> tuple[str, ...]:
    try:
        text = Path(f"/proc/{process}/cmdline").read_text("utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(text.rstrip("\0").split("\0")) if text else ()
