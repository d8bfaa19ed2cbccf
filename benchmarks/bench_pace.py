"""Workers that share one site with a limit: how much of it they use, how often they are refused, how equal they are.

The site is an HTTP server with a token bucket, and the workers are processes that send requests at the worker's own
pace (`worker.fetch.pace`). They fetch no images, so that eight of them fit on a small machine. A whole worker shows
that a slow site does not hold up a fast one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.processes import in_turn, median_seconds
from benchmarks.ratio import Ratio
from benchmarks.rig import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rig import Rig

RATES = (2, 20, 200)
"""Requests/s that the site allows."""

WORKERS = (1, 8)

WARM_UP_SECONDS = 30
"""Time in seconds before the counting begins."""

COUNTED_SECONDS = 60


class Counts(NamedTuple):
    """What one worker counted at one site."""

    answered: int
    refused: int
    lost: int


def shared_site(*, share: int) -> list[Ratio]:
    """Measure all cases. Above a `share` of 1, the workers get less time to find the rate."""
    warm_up, counted = (WARM_UP_SECONDS, COUNTED_SECONDS) if share == 1 else (10, 10)
    ratios: list[Ratio] = []
    for rate in RATES:
        for workers in WORKERS:
            with _limited_server(rate) as port:
                counts = _run_clients(port, workers, warm_up, counted)
            ratios += _ratios(counts, rate=rate, seconds=counted)
    return ratios


def _ratios(counts: list[Counts], *, rate: int, seconds: int) -> list[Ratio]:
    answered, refused = sum(one.answered for one in counts), sum(one.refused for one in counts)
    fewest = min(one.answered for one in counts) * len(counts) / max(1, answered)
    what = f"{len(counts)} worker{'s' if len(counts) > 1 else ''}, a site of {rate}/s, "
    detail = f"{answered} answers and {refused} refusals in {seconds} s, {sum(one.lost for one in counts)} rows lost"
    return [
        Ratio(what + "used part", answered / (rate * seconds), ">= 0.9", detail),
        Ratio(what + "refused part", refused / max(1, answered + refused), "<= 0.1", ""),
        Ratio(what + "fewest of an equal share", fewest, ">= 0.5", ""),
    ]


def beside_a_slow_site(rig: Rig, source: Source, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare a chunk of `rows` images with one that has as many images of a slow site between them.

    The slow site's images are deferred as soon as nothing else is left, so both chunks end with the fast site's images.
    """
    settings = {"slow_site_seconds": 0, "max_failure_ratio": 1}
    with _limited_server(2) as port:
        slow = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(rows)]
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


def _run_clients(port: int, workers: int, warm_up: int, counted: int) -> list[Counts]:
    command = [sys.executable, "-m", "benchmarks.paced_client", str(warm_up), str(warm_up + counted), str(port)]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    outputs = [client.communicate()[0] for client in clients]
    if any(client.returncode for client in clients):
        raise RuntimeError("a client failed; its error is above")
    return [Counts(**json.loads(output)) for output in outputs]


@contextmanager
def _limited_server(rate: int) -> Iterator[int]:
    """Serve at this rate, with a burst of one second, until the block ends."""
    command = [sys.executable, "-m", "benchmarks.limited_server", str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.terminate()
