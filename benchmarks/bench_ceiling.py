"""Measures the CPU of each thread and process of a worker, to tell how many images/s the worker can reach.

Decoders are left out, because a worker has as many of them as it has cores. The others are there once, so none of them
can spend more than the time that one core has for an image.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.processes import in_turn, median
from benchmarks.ratio import Ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.cpu_watch import ProcessCpu
    from benchmarks.processes import Cost
    from benchmarks.rig import Rig, Source

BATCH_SIZE = 256
"""Number of images in a batch, as on a GPU. What a batch costs is then shared by as many images as there."""

DECODERS = "decoders"
MODEL = "model on the CPU"
"""Names of what does not count: it goes with the cores, or a GPU does it."""

MODEL_THREADS = "compute"
"""First letters of the names of the threads that compute the model on a CPU."""

DECODE_PACKAGE = "worker.decode"

LISTED_MILLISECONDS = 0.0005
"""CPU time an image below which a thread is not listed."""


class Shares(NamedTuple):
    """CPU time by names: seconds of a run, or milliseconds an image."""

    threads: dict[str, float]
    processes: dict[str, float]
    """The sums of the threads, those that have ended early included. The model's are left out."""
    apart: dict[str, float]
    """What does not count."""


def ceiling(rig: Rig, sources: Mapping[str, Source], *, rows: int, rounds: int) -> list[Ratio]:
    """Measure a worker on `rows` images. A run of few rows measures the start, which is subtracted."""
    few = min(BATCH_SIZE, rows // 2)
    settings = {"batch_size": BATCH_SIZE, "device": "cpu"}
    costs = in_turn(
        {
            f"{name} {count}": partial(
                rig.run_worker, source, count, rig.tiny_model, watches_threads=True, settings=settings
            )
            for name, source in sources.items()
            for count in (rows, few)
        },
        rounds,
    )
    ratios = []
    for name in sources:
        shares = shares_of(costs[f"{name} {rows}"], costs[f"{name} {few}"], more=rows - few)
        ratios += ratios_of(name, shares)
    return ratios


def ratios_of(name: str, shares: Shares) -> list[Ratio]:
    """Return the lines of the worker's threads and processes, where `name` says what the worker did."""
    largest_thread, largest_process = (max(each.values()) for each in (shares.threads, shares.processes))
    apart = ", ".join(f"{what} {cpu:.2f}" for what, cpu in shares.apart.items())
    return [
        Ratio(
            f"largest thread, ms of CPU an image, {name}",
            largest_thread,
            "<= 0.1",
            f"ceiling {_per_second(largest_thread)}; {_list(shares.threads)}; apart: {apart}",
        ),
        Ratio(
            f"largest process, ms of CPU an image, {name}",
            largest_process,
            "<= 0.1",
            f"ceiling {_per_second(largest_process)}; {_list(shares.processes)}",
        ),
    ]


def shares_of(many: Sequence[Cost], few: Sequence[Cost], *, more: int) -> Shares:
    """Return what each thread and process spends on an image, from runs that differ by `more` images.

    Threads that end early, such as the one that loads the model, spend nothing on later images. They are left out,
    because they differ by more from run to run than all images cost.
    """
    early = frozenset[str].intersection(*(_early_threads(cost.processes) for cost in many))
    large = [_totals(cost.processes, early) for cost in many]
    small = [_totals(cost.processes, early) for cost in few]

    def share(kind: int) -> dict[str, float]:
        names = {name: None for totals in large for name in totals[kind]}
        return {name: (middle(name, large, kind) - middle(name, small, kind)) / more * 1000 for name in names}

    def middle(name: str, runs: Sequence[Shares], kind: int) -> float:
        return median([totals[kind].get(name, 0.0) for totals in runs])

    return Shares(*map(share, range(len(Shares._fields))))


def _early_threads(processes: Sequence[ProcessCpu]) -> frozenset[str]:
    return frozenset(
        f"{_name(process, processes)}: {thread}" for process in processes for thread in process.early_threads
    )


def _totals(processes: Sequence[ProcessCpu], early: frozenset[str]) -> Shares:
    """Return seconds of CPU, the threads in `early` left out."""
    threads: dict[str, float] = defaultdict(float)
    totals: dict[str, float] = defaultdict(float)
    apart: dict[str, float] = defaultdict(float)
    for process in processes:
        name = _name(process, processes)
        if name == DECODERS:
            apart[name] += process.cpu_seconds
            continue
        totals[name] += process.cpu_seconds
        for thread, cpu_seconds in process.threads.items():
            full_name = f"{name}: {thread}"
            if thread.startswith(MODEL_THREADS):
                apart[MODEL] += cpu_seconds
            elif full_name not in early:
                threads[full_name] += cpu_seconds
                continue
            totals[name] -= cpu_seconds
    return Shares(threads, totals, apart)


def _name(process: ProcessCpu, processes: Sequence[ProcessCpu]) -> str:
    if process.parent < 0:
        return "worker"
    if not _decodes(process):
        return " ".join(process.command[1:3]) or "unknown"
    # Decoders are forked from a server, so they have its command line. The server itself counts.
    return DECODERS if _decodes(processes[process.parent]) else "decoder server"


def _decodes(process: ProcessCpu) -> bool:
    return any(argument.startswith(DECODE_PACKAGE) for argument in process.command)


def _per_second(milliseconds: float) -> str:
    return f"{1000 / milliseconds:,.0f} images/s" if milliseconds > 0 else "not reached"


def _list(shares: dict[str, float]) -> str:
    ordered = sorted(shares.items(), key=lambda item: item[1], reverse=True)
    return ", ".join(f"{name} {cpu:.3f}" for name, cpu in ordered if cpu >= LISTED_MILLISECONDS)
