from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from results.report.attempts import TimedAttempt, timed_attempts
from results.report.throughput import chart_throughput, nice_levels, throughput
from results.report.time_axis import MOST_CUTS, TICK_DISTANCE, TimeAxis
from results.report.timeline import MOST_BARS, MOST_ROWS, lay_out_timeline
from tests.results.reports import chunk_times

DAY = 86_400
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


def axis_of(*spans: tuple[float, float]) -> TimeAxis:
    return TimeAxis([(NOON + start, NOON + end) for start, end in spans], left=50, right=950)


def attempt(start: float, end: float, images: int, *, chunk: int = 0) -> TimedAttempt:
    return TimedAttempt(chunk, NOON + start, NOON + end, images, "encode", is_earlier=False)


def test_an_axis_reaches_from_the_first_start_to_the_last_end() -> None:
    axis = axis_of((10, 60), (0, 30))
    assert (axis.x(NOON), axis.x(NOON + 30), axis.x(NOON + 60)) == (50, 500, 950)
    assert axis.cuts == []
    assert axis.ticks[0].label == "28 Nov 12:00:00"
    assert axis.ticks[1].label == "12:00:10"


def test_the_days_before_a_top_up_are_cut_out() -> None:
    axis = axis_of((0, 3600), (3 * DAY, 3 * DAY + 600))
    assert [cut.label for cut in axis.cuts] == ["2d 23h"]
    assert axis.x(NOON + 3600) < axis.cuts[0].x < axis.x(NOON + 3 * DAY)
    assert axis.x(NOON + 3 * DAY + 600) == pytest.approx(950)
    assert any(tick.label.startswith("01 Dec") for tick in axis.ticks)


def test_an_axis_has_few_cuts_and_ticks_that_do_not_touch() -> None:
    axis = axis_of(*((DAY * number, DAY * number + 600 + number) for number in range(40)))
    assert len(axis.cuts) == MOST_CUTS
    places = [tick.x for tick in axis.ticks]
    assert all(after - before >= 0.89 * TICK_DISTANCE for before, after in pairwise(places))
    assert 2 <= len(places) <= 12


@pytest.mark.parametrize("seconds", [0.001, 1, 59, 3600, DAY, 40 * DAY, 3000 * DAY])
def test_an_axis_of_any_length_has_labels(seconds: float) -> None:
    assert 1 <= len(axis_of((0, seconds)).ticks) <= 11


def test_the_throughput_adds_up_to_all_images() -> None:
    attempts = timed_attempts(chunk_times(200, workers=20, topped_up=(3, 50)))
    axis = TimeAxis(((each.start, each.end) for each in attempts), left=0, right=900)
    bins = throughput(attempts, axis, count=100)
    assert sum(each.rate * (each.end - each.start) for each in bins) == pytest.approx(
        sum(each.images for each in attempts)
    )
    assert max(each.workers for each in bins) <= 20.0001


def test_the_throughput_of_two_workers_is_the_sum_of_both() -> None:
    attempts = [attempt(0, 100, 1000), attempt(50, 100, 1000, chunk=1)]
    axis = axis_of((0, 100))
    slow, fast = throughput(attempts, axis, count=2)
    assert slow == pytest.approx((NOON, NOON + 50, 10, 1))
    assert fast == pytest.approx((NOON + 50, NOON + 100, 30, 2))
    chart = chart_throughput(attempts, axis, height=100)
    assert chart.peak == pytest.approx(30)
    assert chart.path.startswith("M50.0 100")


def test_the_levels_of_a_grid_are_round_numbers() -> None:
    assert nice_levels(0) == [0, 1]
    assert nice_levels(12_887) == [0, 5000, 10_000, 15_000]
    assert nice_levels(0.9) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_levels(100) == [0, 20, 40, 60, 80, 100]


def test_a_timeline_has_a_row_for_each_chunk_and_a_bar_for_each_attempt() -> None:
    times = chunk_times(30, workers=4, topped_up=(2,))
    attempts = timed_attempts(times)
    axis = TimeAxis(((each.start, each.end) for each in attempts), left=50, right=950)
    timeline = lay_out_timeline(attempts, axis)
    assert timeline.chunks_per_row == 1
    assert len({bar.y for bar in timeline.bars}) == 30
    assert len(timeline.bars) == sum(len(each.attempts) for each in times)
    assert sum(bar.is_earlier for bar in timeline.bars) == sum(len(each.earlier) for each in times)
    assert [label.text for label in timeline.labels][:2] == ["0", "2"]
    assert timeline.bars[0].title.startswith("chunk 0: 2026-11-28 09:12:")


def test_many_chunks_share_rows_and_bars_are_bounded() -> None:
    attempts = [
        attempt(chunk + DAY * turn, chunk + DAY * turn + 30, 10, chunk=chunk)
        for chunk in range(2000)
        for turn in range(4)
    ]
    axis = TimeAxis(((each.start, each.end) for each in attempts), left=50, right=950)
    timeline = lay_out_timeline(attempts, axis)
    assert timeline.chunks_per_row == 2
    assert len({bar.y for bar in timeline.bars}) == MOST_ROWS
    assert len(timeline.bars) <= MOST_BARS
    assert all(bar.x >= 50 and bar.x + bar.width <= 951 for bar in timeline.bars)
