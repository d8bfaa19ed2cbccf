"""Workers that share one site with a limit: how much of it they use, how often they are refused, how equal they are.

The site is an HTTP server with a token bucket. The workers are whole worker processes, each with its own chunk of one
list. A single worker shows that a slow site does not hold up a fast one.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.limited_server import limited_site
from benchmarks.processes import THIS_TREE, in_turn, median_seconds
from benchmarks.ratio import Ratio
from benchmarks.rig import Source
from common.logs import CHUNK_PROGRESS, parse_line
from worker.memory import WORKER_MALLOC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.limited_server import Counts, LimitedSite
    from benchmarks.rig import Rig

RATES = (2, 20, 200)
"""Requests/s that the site allows."""

WORKERS = (1, 8)

START_SECONDS = 480
"""Longest time in seconds until all workers have sent a request. Eight of them load their libraries on two cores."""

LONGEST_LEAD_SECONDS = 60
"""Longest time in seconds by which one worker starts before the last one."""

WARM_UP_SECONDS = 30
"""Time in seconds before the counting begins. It begins when all workers have sent a request."""

COUNTED_SECONDS = 60
"""Time in seconds that counts. An equal share of eight workers at 2 requests/s is then 15 images, of which chance takes
few. All six cases take about ten minutes."""

LOST_SECONDS = 60
"""Time in seconds after its last refusal after which an image that was not asked for again is lost. A refused image
comes first at its worker's next turn, which is seconds away."""

STOP_SECONDS = 60
"""Longest time in seconds in which a worker ends after SIGTERM."""


class Case(NamedTuple):
    """What the workers got from the site in the time that counts."""

    seconds: float
    """Duration of this time in seconds."""
    answered: list[int]
    """Number of answers of each worker."""
    refused: int
    lost: int
    """Number of images that were lost or fetched twice, or that failed, since the start."""

    @property
    def refused_part(self) -> float:
        return self.refused / max(1, self.refused + sum(self.answered))

    @property
    def fewest_share(self) -> float:
        """The answers of the worker with the fewest, as a part of an equal share."""
        return min(self.answered) * len(self.answered) / max(1, sum(self.answered))


def shared_site(rig: Rig, *, share: int) -> Iterator[Ratio]:
    """Measure all cases. Above a `share` of 1, the workers get less time to find the rate."""
    warm_up, counted = (WARM_UP_SECONDS, COUNTED_SECONDS) if share == 1 else (5, 10)
    for rate in RATES:
        for workers in WORKERS:
            case = _measure(rig, rate, workers, warm_up=warm_up, counted=counted)
            yield from _ratios(case, rate=rate)


def _ratios(case: Case, *, rate: int) -> list[Ratio]:
    workers, answered = len(case.answered), sum(case.answered)
    what = f"{workers} worker{'s' if workers > 1 else ''}, a site of {rate}/s, "
    detail = f"{answered} answers and {case.refused} refusals in {case.seconds:.0f} s"
    return [
        Ratio(what + "used part", answered / (rate * case.seconds), ">= 0.9", detail),
        Ratio(what + "refused part", case.refused_part, "<= 0.1", ""),
        Ratio(what + "fewest of an equal share", case.fewest_share, ">= 0.5", f"{min(case.answered)} answers"),
        Ratio(what + "rows lost", case.lost, "0", ""),
    ]


def _measure(rig: Rig, rate: int, workers: int, *, warm_up: int, counted: int) -> Case:
    with limited_site(rate) as site, tempfile.TemporaryDirectory(dir=rig.folder) as folder:
        with _workers(rig, Path(folder), site, rate=rate, count=workers, seconds=warm_up + counted) as processes:
            _await(site, processes)
            time.sleep(warm_up)
            before, began = site.counts(), time.monotonic()
            time.sleep(counted)
            after, seconds = site.counts(), time.monotonic() - began
            _check_running(processes)
        failed = sum(_failed(log.read_text("utf-8")) for log in Path(folder).glob("*.log"))
    return Case(
        seconds=seconds,
        answered=[after[number].answered - before[number].answered for number in range(workers)],
        refused=sum(after[number].refused - before[number].refused for number in range(workers)),
        lost=failed + sum(map(_lost, after.values())),
    )


def _lost(counts: Counts) -> int:
    return counts.repeated + sum(seconds > LOST_SECONDS for seconds in counts.waiting_seconds)


def _failed(output: str) -> int:
    """Return the number of failed images of a worker, from its last line about its progress."""
    events = filter(None, map(parse_line, output.splitlines()))
    lines = [event for event in events if event.event == CHUNK_PROGRESS]
    return (lines[-1].count("failed") or 0) if lines else 0


class _Running(NamedTuple):
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def _workers(
    rig: Rig, folder: Path, site: LimitedSite, *, rate: int, count: int, seconds: int
) -> Iterator[list[_Running]]:
    """Run workers until the block ends, each with a chunk that lasts longer than that."""
    # The first workers ask alone until the last one has started, and a worker may get more than its share.
    rows = rate * (seconds + LONGEST_LEAD_SECONDS)
    manifest = folder / "list.txt"
    manifest.write_text("".join(f"{url}\n" for worker in range(count) for url in site.urls(worker, rows)), "utf-8")
    environment = {
        "EMBEDDER_CHUNK_COUNT": str(count),
        "EMBEDDER_MANIFEST_URI": str(manifest),
        "EMBEDDER_RUN_URI": str(folder / "run"),
        "EMBEDDER_MODEL": str(rig.tiny_model),
        "EMBEDDER_ALLOW_PRIVATE_HOSTS": "true",
        "EMBEDDER_CHECKPOINT_SECONDS": "0",
        "EMBEDDER_PROGRESS_SECONDS": "5",
        "EMBEDDER_DECODE_THREADS": "1",
        "EMBEDDER_BATCH_SIZE": "16",
        "EMBEDDER_SLOW_SITE_SECONDS": "3600",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    with ExitStack() as stack:
        running = []
        for index in range(count):
            log = folder / f"{index}.log"
            process = subprocess.Popen(
                [THIS_TREE.python, "-m", "worker"],
                env=os.environ | WORKER_MALLOC | environment | {"JOB_COMPLETION_INDEX": str(index)},
                stdout=stack.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
                cwd=THIS_TREE.folder,
            )
            stack.callback(_await_end, process)
            running.append(_Running(process, log))
        try:
            yield running
        finally:
            for each in running:
                each.process.terminate()


def _await_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await(site: LimitedSite, workers: list[_Running]) -> None:
    """Wait until all workers have asked for an image."""
    deadline = time.monotonic() + START_SECONDS
    while len(site.counts()) < len(workers):
        _check_running(workers)
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(site.counts())} of {len(workers)} workers ask within {START_SECONDS} s")
        time.sleep(0.2)


def _check_running(workers: list[_Running]) -> None:
    for process, log in workers:
        if process.poll() is not None:
            raise RuntimeError(f"a worker ended with {process.returncode}:\n{log.read_text('utf-8')[-4000:]}")


def beside_a_slow_site(rig: Rig, source: Source, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare a chunk of `rows` images with one that has as many images of a slow site between them.

    The slow site's images are deferred as soon as nothing else is left, so both chunks end with the fast site's images.
    """
    settings = {"slow_site_seconds": 0, "max_failure_ratio": 1}
    with limited_site(2) as site:
        slow = site.urls(0, rows)
        mixed = Source([url for pair in zip(source.rows(rows), slow, strict=True) for url in pair], source.environment)
        costs = in_turn(
            {
                "alone": lambda: rig.run_worker(source, rows, rig.tiny_model, settings=settings),
                "beside": lambda: rig.run_worker(mixed, 2 * rows, rig.tiny_model, settings=settings),
            },
            rounds,
        )
    seconds = {way: median_seconds(costs[way]) for way in costs}
    detail = f"{seconds['beside']:.1f} and {seconds['alone']:.1f} s for {rows} images"
    ratio = seconds["beside"] / seconds["alone"]
    return [Ratio("time of a fast site's images, beside a site of 2/s over alone", ratio, "<= 1.05", detail)]
