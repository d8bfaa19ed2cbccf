"""Programs that are run to their end, and what they cost: time, CPU of all their processes, memory."""

from __future__ import annotations

import ctypes
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from benchmarks.cpu_watch import CpuWatch, children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.cpu_watch import ProcessCpu

T = TypeVar("T")

WATCH_SECONDS = 0.02
"""Time between two looks at a running process, in seconds."""

ORPHAN_SECONDS = 10
"""Longest time in seconds that a program's processes may outlive it."""

_PR_SET_CHILD_SUBREAPER = 36
"""Number of the prctl option by which a process inherits its descendants whose parents end, from Linux's prctl.h."""


class Program(NamedTuple):
    """A tree of sources and the interpreter that runs it."""

    folder: Path
    python: str


THIS_TREE = Program(Path(__file__).parents[1], sys.executable)


class Cost(NamedTuple):
    """The cost of a program from its start to its end."""

    seconds: float
    cpu_seconds: float
    """CPU time of the process and of all its descendants."""
    peak_megabytes: float
    """Largest resident memory of the process alone. Growth in the last 20 ms may be missed."""
    output: str
    """Standard output and standard error."""
    started: float
    """Time of the start, in Unix seconds."""
    processes: list[ProcessCpu]
    """CPU time of each process and thread, empty unless asked for."""


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    program: Program = THIS_TREE,
    watches_threads: bool = False,
) -> Cost:
    """Run `python -m command` to its end and return its cost.

    Raises RuntimeError with the program's output when it fails, or when one of its processes outlives it.
    """
    with _inheriting_orphans() as wait_for_orphans:
        started, clock = time.time(), time.perf_counter()
        process = subprocess.Popen(
            [program.python, "-m", *command],
            env=_inherited(program) | dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=program.folder,
        )
        assert process.stdout is not None
        cpu = CpuWatch(process.pid) if watches_threads else None
        watch = threading.Thread(target=_watch, args=(process.pid, peak := [0.0], cpu))
        watch.start()
        output = process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.perf_counter() - clock
        watch.join()
        if cpu is not None:
            cpu.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu_seconds = usage.ru_utime + usage.ru_stime + wait_for_orphans()
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-4000:]}")
    return Cost(seconds, cpu_seconds, peak[0], output, started, cpu.processes() if cpu else [])


@contextmanager
def _inheriting_orphans() -> Iterator[Callable[[], float]]:
    """Make processes whose parent ends children of this process, within the block.

    Give a function that waits for those, and returns their CPU time in seconds. The times that `wait4` returns leave
    out a process that its own parent has not waited for, such as a decoder whose server was killed. The function raises
    RuntimeError if such a process does not end.
    """
    others = set(children(os.getpid()))

    def wait() -> float:
        seconds, deadline = 0.0, time.monotonic() + ORPHAN_SECONDS
        while orphans := set(children(os.getpid())) - others:
            for orphan in orphans:
                ended, _, usage = os.wait4(orphan, os.WNOHANG)
                if ended:
                    seconds += usage.ru_utime + usage.ru_stime
            if time.monotonic() > deadline:
                for orphan in orphans:
                    os.kill(orphan, signal.SIGKILL)
                raise RuntimeError(f"processes {sorted(orphans)} have outlived their program for {ORPHAN_SECONDS} s")
            time.sleep(WATCH_SECONDS)
        return seconds

    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield wait
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _inherited(program: Program) -> dict[str, str]:
    """Return this process's environment, without a path that leads another tree's program to this tree's modules."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or program == THIS_TREE}


def _watch(pid: int, peak: list[float], cpu: CpuWatch | None) -> None:
    # The peak that wait4 reports would also count the process that started this one.
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text("utf-8")
        except OSError:
            return
        if "VmHWM" not in status:  # it has ended
            return
        peak[0] = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
        if cpu is not None:
            cpu.sample()
        time.sleep(WATCH_SECONDS)


def part(*arguments: object, environment: Mapping[str, str]) -> float:
    """Return the number that a command of `benchmarks.parts` prints last."""
    cost = run(["benchmarks.parts", *map(str, arguments)], environment)
    return float(cost.output.split()[-1])


def in_turn(variants: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Return the results of each variant. In every round, each variant runs once."""
    results: dict[str, list[T]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            results[name].append(measure())
    return results


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def median_seconds(costs: Sequence[Cost]) -> float:
    return median([cost.seconds for cost in costs])


def median_cpu(costs: Sequence[Cost]) -> float:
    return median([cost.cpu_seconds for cost in costs])
