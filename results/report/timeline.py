"""The timeline of a report: for each chunk, when it was computed and what most of the time went to."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from results.report.attempts import KINDS
from results.report.texts import duration, moment, number, rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from results.report.attempts import TimedAttempt
    from results.report.time_axis import TimeAxis

MOST_ROWS = 1_000
"""Largest number of rows. A row stands for several neighbouring chunks where a run has more chunks."""

MOST_BARS = 6_000
"""Largest number of bars: with 200 bytes a bar, the chart takes at most about 1 MB."""

MOST_LABELS = 24
"""Largest number of rows with the chunk's index beside them."""


class Bar(NamedTuple):
    """One attempt, or several in a row of several chunks. Its places are in the chart's units."""

    x: float
    width: float
    y: float
    height: float
    kind: str
    """One of KINDS."""
    is_earlier: bool
    title: str


class Label(NamedTuple):
    y: float
    text: str


class Timeline(NamedTuple):
    bars: Sequence[Bar]
    labels: Sequence[Label]
    height: float
    chunks_per_row: int
    kinds: Sequence[str]
    """Those of the bars, in the order of KINDS."""


def lay_out_timeline(attempts: Sequence[TimedAttempt], axis: TimeAxis, *, smallest_width: float = 1.0) -> Timeline:
    """Return the timeline of all attempts, at least one, with the smallest index above."""
    chunks = sorted({attempt.chunk for attempt in attempts})
    per_row = -(-len(chunks) // MOST_ROWS)
    row_of = {chunk: position // per_row for position, chunk in enumerate(chunks)}
    row_count = row_of[chunks[-1]] + 1
    pitch = min(22.0, max(1.0, 460 / row_count))
    gap = 0.2 * pitch if pitch >= 3 else 0.0
    bars: list[Bar] = []
    spans = _spans(attempts, row_of, is_grouped=per_row > 1, axis=axis)
    for row, start, end, kind, is_earlier, title in spans:
        x = axis.x(start)
        bar = Bar(x, max(smallest_width, axis.x(end) - x), row * pitch, pitch - gap, kind, is_earlier, title)
        bars.append(bar)
    return Timeline(
        bars,
        _labels(chunks, per_row, pitch),
        row_count * pitch,
        per_row,
        [kind for kind in KINDS if any(bar.kind == kind for bar in bars if not bar.is_earlier)],
    )


def _labels(chunks: Sequence[int], per_row: int, pitch: float) -> list[Label]:
    row_count = -(-len(chunks) // per_row)
    step = max(1, -(-row_count // MOST_LABELS))
    step = next(each for each in (1, 2, 5, 10, 20, 25, 50, 100) if each >= step)
    return [Label((row + 0.5) * pitch, str(chunks[row * per_row])) for row in range(0, row_count, step)]


class _Span(NamedTuple):
    row: int
    start: float
    end: float
    kind: str
    is_earlier: bool
    title: str


def _spans(
    attempts: Sequence[TimedAttempt], row_of: dict[int, int], *, is_grouped: bool, axis: TimeAxis
) -> list[_Span]:
    if not is_grouped and len(attempts) <= MOST_BARS:
        return [
            _Span(row_of[each.chunk], each.start, each.end, each.kind, each.is_earlier, title_of(each))
            for each in attempts
        ]
    tolerance = sum(each.end - each.start for each in axis.stretches) / 500
    while True:
        spans = list(_joined(attempts, row_of, tolerance=tolerance))
        if len(spans) <= MOST_BARS:
            return spans
        tolerance *= 2


def _joined(attempts: Sequence[TimedAttempt], row_of: dict[int, int], *, tolerance: float) -> Iterator[_Span]:
    """Yield one span for all attempts of a row between which less than `tolerance` seconds pass."""
    together: list[TimedAttempt] = []
    end = 0.0
    for attempt in sorted(attempts, key=lambda each: (row_of[each.chunk], each.start)):
        if together and (row_of[attempt.chunk] != row_of[together[0].chunk] or attempt.start > end + tolerance):
            yield _together(together, row_of[together[0].chunk], end)
            together = []
        end = max(end, attempt.end) if together else attempt.end
        together.append(attempt)
    yield _together(together, row_of[together[0].chunk], end)


def _together(attempts: Sequence[TimedAttempt], row: int, end: float) -> _Span:
    kinds = Counter(each.kind for each in attempts if not each.is_earlier) or Counter({"unknown": 1})
    chunks = {each.chunk for each in attempts}
    title = (
        f"chunks {min(chunks)} to {max(chunks)}: {moment(attempts[0].start)} to {moment(end)}, "
        f"{number(sum(each.images for each in attempts))} images"
    )
    is_earlier = all(each.is_earlier for each in attempts)
    return _Span(row, attempts[0].start, end, kinds.most_common(1)[0][0], is_earlier, title)


def title_of(attempt: TimedAttempt) -> str:
    """Return what is shown while the mouse rests on a bar."""
    name = f"chunk {attempt.chunk}, an earlier attempt" if attempt.is_earlier else f"chunk {attempt.chunk}"
    kind = "" if attempt.kind == "unknown" else f", mostly {KINDS[attempt.kind]}"
    return (
        f"{name}: {moment(attempt.start)} to {moment(attempt.end)} ({duration(attempt.seconds)}), "
        f"{number(attempt.images)} images, {rate(attempt.rate)} images/s{kind}"
    )
