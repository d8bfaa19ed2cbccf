"""Compares what an image costs the worker's event loop by what the list holds.

The decoders do nothing, so nothing else uses the cache, and an image costs less than half of what it costs beside real
decoders (`bench_ceiling`).
"""

from __future__ import annotations

from functools import partial

from benchmarks.processes import in_turn, median, part
from benchmarks.ratio import Ratio

YARDSTICK = "private"

NAMES = {
    "public": "the event loop, a host of the internet",
    "s3": "the event loop, objects of S3",
    "open-images": "the event loop, rows of Open Images",
}
"""The lines by the kinds of rows that are compared with the yardstick, a private host over HTTPS."""


def loop(*, rows: int, rounds: int) -> list[Ratio]:
    """Compare the CPU time of an image of each kind with that of a private host, which no check of addresses meets."""
    found = in_turn({kind: partial(part, "loop", kind, rows, environment={}) for kind in (YARDSTICK, *NAMES)}, rounds)
    cost = {kind: median(values) for kind, values in found.items()}
    return [
        Ratio(name, cost[kind] / cost[YARDSTICK], "<= 1.3", f"{cost[kind]:.4f} and {cost[YARDSTICK]:.4f} ms an image")
        for kind, name in NAMES.items()
    ]
