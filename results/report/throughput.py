"""The throughput of a run over time, from the times and the images of its attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from results.report import texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from results.report.attempts import TimedAttempt
    from results.report.time_axis import TimeAxis

BINS = 180
"""Number of bins of the chart, at most one more for each cut of the axis."""

TABLE_ROWS = 20
"""Number of rows of the table, at most one more for each cut of the axis."""


class Bin(NamedTuple):
    start: float
    end: float
    """Seconds since 1970."""
    rate: float
    """Images a second."""
    workers: float
    """Number of attempts under way, on average."""


class Level(NamedTuple):
    """A line of the grid."""

    y: float
    label: str


class Throughput(NamedTuple):
    path: str
    """The outline of the area, as the attribute `d` of an SVG path."""
    levels: Sequence[Level]
    height: float
    peak: float
    """Images a second in the fastest bin."""
    table: Sequence[tuple[str, str, str, str]]
    """Start, duration, images a second and workers, as texts."""


def chart_throughput(attempts: Sequence[TimedAttempt], axis: TimeAxis, *, height: float) -> Throughput:
    """Return the chart. The images of an attempt are spread evenly over its time, since no more is known."""
    bins = throughput(attempts, axis, count=BINS)
    peak = max((each.rate for each in bins), default=0.0)
    steps = nice_levels(peak)
    top = steps[-1]
    path: list[str] = []
    for position, each in enumerate(bins):
        left, right, y = axis.x(each.start), axis.x(each.end), height * (1 - each.rate / top)
        if position == 0 or bins[position - 1].end < each.start:
            path.append(f"{'Z' if path else ''}M{left:.1f} {height:g}")
        path.append(f"V{y:.1f}H{right:.1f}")
        if position + 1 == len(bins) or each.end < bins[position + 1].start:
            path.append(f"V{height:g}")
    return Throughput(
        "".join(path) + "Z",
        [Level(height * (1 - step / top), texts.number(step)) for step in steps],
        height,
        peak,
        [
            (
                texts.moment(each.start),
                texts.duration(each.end - each.start),
                texts.rate(each.rate),
                texts.rate(each.workers),
            )
            for each in throughput(attempts, axis, count=TABLE_ROWS)
        ],
    )


def throughput(attempts: Sequence[TimedAttempt], axis: TimeAxis, *, count: int) -> list[Bin]:
    """Return the throughput in about `count` bins of equal width in the chart."""
    start, end, images = (np.array([each[field] for each in attempts], np.float64) for field in (1, 2, 3))
    width = sum(each.right - each.left for each in axis.stretches)
    bins: list[Bin] = []
    for stretch in axis.stretches:
        here = max(1, round(count * (stretch.right - stretch.left) / width))
        edges = np.linspace(stretch.start, stretch.end, here + 1)
        done = _up_to(edges, start, end, images)
        worked = _up_to(edges, start, end, end - start)
        for position in range(here):
            first, last = edges[position], edges[position + 1]
            seconds = max(last - first, 1e-9)
            rate, workers = (float(each[position + 1] - each[position]) / seconds for each in (done, worked))
            bins.append(Bin(float(first), float(last), max(0.0, rate), max(0.0, workers)))
    return bins


def _up_to(
    edges: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64], amount: NDArray[np.float64]
) -> list[float]:
    """Return for each edge how much of the amounts lies before it, if each is spread evenly from start to end."""
    return [float((amount * np.clip((edge - start) / (end - start), 0, 1)).sum()) for edge in edges]


def nice_levels(peak: float) -> list[float]:
    """Return three to six round numbers from 0 to one that is not below the peak."""
    if peak <= 0:
        return [0.0, 1.0]
    power = 10.0 ** np.floor(np.log10(peak))
    step = next(float(each * power) for each in (0.2, 0.25, 0.5, 1, 2) if peak / (each * power) <= 5)
    return [step * count for count in range(int(np.ceil(peak / step - 1e-9)) + 1)]
