"""Workers that share one site with a limit: how much of it they use, how often they are refused, how equal they are.

The site is an HTTP server with a token bucket, and the workers are processes that send requests at the worker's own
pace (`worker.fetch.pace`). They fetch no images, so that eight of them fit on a small machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.processes import median
from benchmarks.ratio import Ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def pace(*, share: int, rounds: int) -> list[Ratio]:
    """Measure all cases. Above a `share` of 1, the workers get less time to find the rate."""
    warm_up, counted = (WARM_UP_SECONDS, COUNTED_SECONDS) if share == 1 else (10, 10)
    ratios: list[Ratio] = []
    for rate in RATES:
        for workers in WORKERS:
            with _limited_server(rate) as port:
                counts = [one[0] for one in _run_clients([port], workers, warm_up, counted)]
            ratios += _ratios(counts, rate=rate, seconds=counted)
    return [*ratios, _second_site(seconds=max(2, counted // 10), rounds=rounds)]


def _ratios(counts: list[Counts], *, rate: int, seconds: int) -> list[Ratio]:
    answered, refused = sum(one.answered for one in counts), sum(one.refused for one in counts)
    fewest = min(one.answered for one in counts) * len(counts) / max(1, answered)
    what = f"{len(counts)} workers, a site of {rate}/s, "
    detail = f"{answered} answers and {refused} refusals in {seconds} s, {sum(one.lost for one in counts)} rows lost"
    return [
        Ratio(what + "used part", answered / (rate * seconds), ">= 0.9", detail),
        Ratio(what + "refused part", refused / max(1, answered + refused), "<= 0.1", ""),
        Ratio(what + "fewest of an equal share", fewest, ">= 0.5", ""),
    ]


def _second_site(*, seconds: int, rounds: int) -> Ratio:
    """Compare the requests to a fast site, with and without requests to a slow one beside them.

    The clients have 48 requests in flight at each site, so this compares the paces, not the fetcher's places.
    """
    alone, beside = [], []
    with _limited_server(0) as fast, _limited_server(2) as slow:
        for _ in range(rounds):
            alone.append(float(_run_clients([fast], 1, 1, seconds)[0][0].answered))
            beside.append(float(_run_clients([fast, slow], 1, 1, seconds)[0][0].answered))
    detail = f"{median(beside) / seconds:.0f} and {median(alone) / seconds:.0f} requests/s"
    return Ratio("a fast site beside one of 2/s, over alone", median(beside) / median(alone), ">= 0.95", detail)


def _run_clients(ports: list[int], workers: int, warm_up: int, counted: int) -> list[list[Counts]]:
    command = [sys.executable, "-m", "benchmarks.paced_client", str(warm_up), str(warm_up + counted), *map(str, ports)]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    outputs = [client.communicate()[0] for client in clients]
    if any(client.returncode for client in clients):
        raise RuntimeError("a client failed; its error is above")
    return [[Counts(**counts) for counts in json.loads(output)] for output in outputs]


@contextmanager
def _limited_server(rate: int) -> Iterator[int]:
    """Serve at this rate, with a burst of one second, until the block ends. 0: without a limit."""
    command = [sys.executable, "-m", "benchmarks.limited_server", str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.terminate()
