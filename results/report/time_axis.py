"""The time axis of the charts. Long times without any work, as before a top-up, are cut out."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from common.durations import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CUT_SHARE = 0.1
"""A time without work is cut out if it is longer than this share of all times with work."""

MOST_CUTS = 6
"""Largest number of cuts. The longest times without work are cut out."""

CUT_WIDTH = 34.0
"""Width of a cut in the chart's units."""

TICK_DISTANCE = 84.0
"""The smallest distance between two ticks in the chart's units, so that their labels do not touch."""

_STEPS = (1, 2, 5, 10, 15, 30, *(60 * n for n in (1, 2, 5, 10, 15, 30)), *(3600 * n for n in (1, 2, 3, 6, 12)))
_DAY = 86_400


class Stretch(NamedTuple):
    """A time without a cut, and where it lies in the chart."""

    start: float
    end: float
    left: float
    right: float


class Tick(NamedTuple):
    x: float
    label: str


class Cut(NamedTuple):
    x: float
    label: str
    """How long the time is that was cut out."""


class TimeAxis:
    """Gives a time, in seconds since 1970, its place between `left` and `right`.

    `spans` are the starts and the ends of all work, at least one.
    """

    def __init__(self, spans: Iterable[tuple[float, float]], *, left: float, right: float) -> None:
        joined = list(_without_short_gaps(sorted(spans)))
        cut_width = CUT_WIDTH * (len(joined) - 1)
        scale = (right - left - cut_width) / sum(end - start for start, end in joined)
        self.stretches: list[Stretch] = []
        at = left
        for start, end in joined:
            width = (end - start) * scale
            self.stretches.append(Stretch(start, end, at, at + width))
            at += width + CUT_WIDTH
        self.left, self.right = left, right
        self._seconds_per_unit = 1 / scale

    def x(self, time: float) -> float:
        for stretch in self.stretches:
            if time <= stretch.end:
                inside = max(0.0, time - stretch.start) / self._seconds_per_unit
                return stretch.left + inside
        return self.right

    @property
    def cuts(self) -> list[Cut]:
        return [
            Cut((one.right + other.left) / 2, format_duration(other.start - one.end))
            for one, other in pairwise(self.stretches)
        ]

    @property
    def ticks(self) -> list[Tick]:
        """The times that are written below the axis, with the date where it changes."""
        step = _step(TICK_DISTANCE * self._seconds_per_unit)
        ticks: list[Tick] = []
        date, is_first_of_stretch = "", False
        for stretch in self.stretches:
            for position, time in enumerate(_multiples(step, stretch.start, stretch.end) or [stretch.start]):
                x = self.x(time)
                if ticks and x - ticks[-1].x < 0.9 * TICK_DISTANCE:
                    if position or is_first_of_stretch:
                        continue
                    ticks.pop()  # the first time after a cut says more than the last one before it
                is_first_of_stretch = position == 0
                day = datetime.fromtimestamp(time, UTC).strftime("%d %b")
                clock = "" if step >= _DAY else _clock(time, with_seconds=step < 60)
                ticks.append(Tick(x, f"{day} {clock}".strip() if day != date else clock))
                date = day
        return ticks


def _clock(time: float, *, with_seconds: bool) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%H:%M:%S" if with_seconds or time % 60 else "%H:%M")


def _without_short_gaps(spans: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the spans, joined where they overlap and where the time between them is not worth a cut."""
    joined: list[tuple[float, float]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    work = sum(end - start for start, end in joined)
    gaps = sorted((other[0] - one[1] for one, other in pairwise(joined)), reverse=True)
    shortest_cut = max(CUT_SHARE * work, gaps[MOST_CUTS] if len(gaps) > MOST_CUTS else 0.0)
    start, end = joined[0]
    for later_start, later_end in joined[1:]:
        if later_start - end > shortest_cut:
            yield start, end
            start = later_start
        end = later_end
    yield start, end


def _step(smallest: float) -> float:
    """Return a usual number of seconds, at least `smallest`: a part of a day, or days."""
    return next((float(step) for step in _STEPS if step >= smallest), float(_DAY * math.ceil(smallest / _DAY)))


def _multiples(step: float, start: float, end: float) -> list[float]:
    return [step * number for number in range(math.ceil(start / step), math.floor(end / step) + 1)]
