"""How far a run is, and how it is shown on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from common.durations import format_duration
from common.logs import LogLine, configure_logs, parse_line
from embedder.local.display import LineDisplay, TerminalDisplay, open_display
from embedder.local.progress import Phase, RunProgress
from embedder.local.slow_sites import SlowSite

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def line(text: str) -> LogLine:
    parsed = parse_line(f"2026-11-23T15:20:25.123Z info {text}")
    assert parsed is not None
    return parsed


def test_before_a_worker_logs_its_number_of_images_nothing_is_known(clock: Clock) -> None:
    progress = RunProgress(range(3), clock=clock)
    progress.start(0)
    assert (progress.settled, progress.total, progress.rate_per_second, progress.eta_seconds) == (0, None, None, None)
    assert [progress.chunks(phase) for phase in Phase] == [2, 1, 0, 0]


def test_a_chunk_without_a_count_is_taken_to_be_as_large_as_the_others(clock: Clock) -> None:
    progress = RunProgress(range(4), clock=clock)
    progress.start(0)
    progress.observe(0, line("started chunk=0 of=4 rows=100"))
    assert (progress.total, progress.is_total_known) == (400, False)
    progress.start(1)
    progress.observe(1, line("started chunk=1 of=4 rows=50"))
    assert progress.total == 300


def test_the_files_that_are_no_part_of_the_manifest_are_kept_for_the_end(clock: Clock) -> None:
    progress = RunProgress(range(2), clock=clock)
    progress.observe(0, line('manifest_files manifest=photos format=images files=3 skipped="2 .txt, 1 .mov"'))
    progress.observe(0, line("started chunk=0 of=2 rows=2"))
    assert progress.skipped == "2 .txt, 1 .mov"


def test_rate_and_eta_follow_from_the_images_that_this_command_settles(clock: Clock) -> None:
    progress = RunProgress(range(3), clock=clock)
    progress.finish(2, rows=1000)  # by an earlier run
    progress.start(0)
    progress.observe(0, line("started chunk=0 of=3 rows=1000"))
    clock.now += 10
    progress.observe(0, line("embedded chunk=0 images=500 of=1000 failed=2 rate_per_s=81.2 waiting_on=fetch"))
    assert progress.settled == 1500
    assert progress.rate_per_second == 50
    assert progress.eta_seconds == (500 + 1000) / 50
    assert progress.waiting_on == "fetch"


def test_the_rate_is_that_of_the_last_minute(clock: Clock) -> None:
    progress = RunProgress([0], clock=clock)
    progress.start(0)
    progress.observe(0, line("started chunk=0 of=1 rows=100000"))
    settled = 0
    for rate in [1000] * 20 + [10] * 20:
        clock.now += 10
        settled += 10 * rate
        progress.observe(0, line(f"embedded chunk=0 images={settled} of=1000000"))
    assert progress.rate_per_second == 10


@pytest.mark.parametrize(
    "lines",
    [
        ["taken_over chunk=0 embedded=890 failed=10 to_compute=100", "started chunk=0 of=1 rows=1000"],
        ["started chunk=0 of=1 rows=1000", "resumed chunk=0 rows=900 of=1000 checkpoints=2"],
    ],
)
def test_rows_that_are_settled_at_the_start_do_not_count_for_the_rate(clock: Clock, lines: list[str]) -> None:
    progress = RunProgress([0], clock=clock)
    progress.start(0)
    for each in lines:
        progress.observe(0, line(each))
    assert progress.settled == 900
    clock.now += 10
    progress.observe(0, line("embedded chunk=0 images=950 of=1000 deferred=3"))
    assert progress.settled == 950
    assert progress.rate_per_second == 5
    assert progress.deferred == 3


def slow_site(site: str, *, rate: float, left: int, chunk: int = 0) -> LogLine:
    return line(f"slow_site chunk={chunk} site={site} rate_per_s={rate} left={left} done_in_s={left / rate:.0f}")


def test_slow_sites_are_summed_over_the_workers_and_the_one_with_most_images_left_comes_first(clock: Clock) -> None:
    progress = RunProgress(range(2), clock=clock)
    for index in range(2):
        progress.start(index)
        progress.observe(index, line("embedded images=1 of=1000"))
        progress.observe(index, slow_site("a.example", rate=2, left=10))
    progress.observe(1, slow_site("b.example", rate=0.5, left=300))
    assert progress.slow_sites == [SlowSite("b.example", 0.5, 300, 600), SlowSite("a.example", 4, 20, 5)]


def test_a_site_that_a_worker_no_longer_names_is_not_slow(clock: Clock) -> None:
    progress = RunProgress([0], clock=clock)
    progress.start(0)
    for _ in range(3):
        progress.observe(0, line("embedded images=1 of=1000"))
        progress.observe(0, slow_site("a.example", rate=2, left=10))
    progress.observe(0, line("embedded images=2 of=1000"))
    assert progress.slow_sites
    progress.observe(0, line("embedded images=3 of=1000"))
    assert progress.slow_sites == []


@pytest.mark.parametrize("end", [RunProgress.finish, RunProgress.fail, RunProgress.wait])
def test_a_chunk_that_has_ended_has_no_slow_site(clock: Clock, end: Callable[[RunProgress, int], None]) -> None:
    progress = RunProgress([0], clock=clock)
    progress.start(0)
    progress.observe(0, slow_site("a.example", rate=2, left=10))
    assert progress.slow_sites
    end(progress, 0)
    assert progress.slow_sites == []


@pytest.mark.parametrize("text", ["slow_site left=3", "slow_site site=a.example", "slow_site site=a.example left=-1"])
def test_a_slow_site_without_its_name_or_number_is_not_shown(clock: Clock, text: str) -> None:
    progress = RunProgress([0], clock=clock)
    progress.start(0)
    progress.observe(0, line(text))
    assert progress.slow_sites == []


@pytest.fixture
def slow(clock: Clock) -> RunProgress:
    """Return the progress of a worker with 7 slow sites."""
    progress = RunProgress([0], clock=clock)
    progress.start(0)
    progress.observe(0, line("embedded chunk=0 images=20 of=1000 deferred=12 waiting_on=fetch"))
    for number in range(7):
        progress.observe(0, slow_site(f"site{number}.example", rate=2, left=1200 - number))
    return progress


@pytest.mark.parametrize("width", [80, 120])
def test_five_slow_sites_are_shown_and_the_number_of_the_others(slow: RunProgress, width: int) -> None:
    shown = shown_on_terminal(slow, width=width, act=TerminalDisplay.tick)
    assert "running · 12 deferred · waiting on fetch" in shown
    assert "site0.example serves 2.0/s · 1,200 left · done in 10m 00s" in shown
    assert "site4.example" in shown
    assert "site5.example" not in shown
    assert "and 2 more slow sites with 2,389 images" in shown


def test_lines_name_five_slow_sites_and_count_the_others(slow: RunProgress, capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    LineDisplay(slow).tick()
    said = [parsed for text in capfd.readouterr().err.splitlines() if (parsed := parse_line(text)) is not None]
    assert [each.event for each in said] == ["progress", *["slow_site"] * 5, "more_slow_sites"]
    assert said[0].values["deferred"] == "12"
    assert said[1].values == {"site": "site0.example", "rate_per_s": "2", "left": "1200", "done_in_s": "600"}
    assert said[-1].values == {"sites": "2", "left": "2389"}


def test_the_images_of_an_attempt_that_failed_count_no_longer(clock: Clock) -> None:
    progress = RunProgress([0, 1], clock=clock)
    progress.start(0)
    progress.observe(0, line("embedded chunk=0 images=70 of=100"))
    progress.wait(0)
    assert progress.settled == 0
    assert progress.chunks(Phase.WAITING) == 2


def test_a_failed_chunk_is_not_waited_for(clock: Clock) -> None:
    progress = RunProgress([0, 1], clock=clock)
    for index in (0, 1):
        progress.start(index)
        progress.observe(index, line(f"started chunk={index} of=2 rows=100"))
    clock.now += 10
    progress.observe(0, line("embedded chunk=0 images=100 of=100"))
    progress.finish(0)
    progress.fail(1)
    assert progress.eta_seconds == 0
    assert progress.chunks(Phase.FAILED) == 1


def test_a_chunk_that_its_worker_finds_finished_leaves_no_image_to_do(clock: Clock) -> None:
    progress = RunProgress([0], clock=clock)
    progress.start(0)
    progress.finish(0)
    assert (progress.total, progress.eta_seconds, progress.is_total_known) == (0, None, True)


@pytest.mark.parametrize(
    "text", ["embedded chunk=0", "embedded images=x of=-1", "started rows=١٢", "library of=3 images=2", "hello"]
)
def test_lines_without_progress_change_nothing(clock: Clock, text: str) -> None:
    progress = RunProgress([0], clock=clock)
    progress.start(0)
    progress.observe(0, line(text))
    assert (progress.settled, progress.total) == (0, None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.6, "1m 00s"), (184, "3m 04s"), (7500, "2h 05m"), (273_600, "3d 04h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.fixture
def halfway(clock: Clock) -> RunProgress:
    progress = RunProgress(range(4), clock=clock)
    progress.start(0)
    progress.observe(0, line("started chunk=0 of=4 rows=10000"))
    clock.now += 10
    progress.observe(0, line("embedded chunk=0 images=10000 of=10000"))
    progress.finish(0)
    progress.start(1)
    clock.now += 10
    progress.observe(1, line("embedded chunk=1 images=2000 of=10000 waiting_on=fetch"))
    return progress


def shown_on_terminal(progress: RunProgress, *, width: int, act: Callable[[TerminalDisplay], None]) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    with console.capture() as capture, TerminalDisplay(progress, console) as display:
        act(display)
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_shows_images_rate_eta_and_chunks_and_fits_the_terminal(halfway: RunProgress, width: int) -> None:
    shown = shown_on_terminal(halfway, width=width, act=TerminalDisplay.tick)
    assert "12,000 of about 40,000 images · 600/s · 47s left" in shown
    assert "1 of 4 chunks done · 1 running · waiting on fetch" in shown
    assert "━━━" in shown


def test_a_long_merger_line_stays_one_line(halfway: RunProgress) -> None:
    halfway.merge_note = "merging " + "parts_done=3 " * 40
    shown = shown_on_terminal(halfway, width=80, act=TerminalDisplay.tick)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").split("\n")
    assert max(len(each) for each in lines) == 80


def test_events_on_a_terminal_are_sentences_and_markup_in_them_is_text(halfway: RunProgress) -> None:
    def say(display: TerminalDisplay) -> None:
        display.say("error", "failed", "a [bold]strange[/bold] URL", chunk=3, exit_code=65)
        display.forward("2026-11-23T15:20:25.123Z warning slow_source chunk=3 host=[red]x")

    shown = shown_on_terminal(halfway, width=120, act=say)
    assert "chunk 3 failed  a [bold]strange[/bold] URL (exit code 65)" in shown
    assert "warning slow_source chunk=3 host=[red]x" in shown
    assert "2026-11-23" not in shown


def test_a_run_of_one_chunk_is_shown_without_the_word(clock: Clock) -> None:
    progress = RunProgress([0], is_undivided=True, clock=clock)
    progress.start(0)
    progress.observe(0, line("embedded chunk=0 images=20 of=100 waiting_on=fetch"))
    shown = shown_on_terminal(progress, width=120, act=TerminalDisplay.tick)
    assert "running · waiting on fetch" in shown
    progress.fail(0)
    shown += shown_on_terminal(
        progress, width=120, act=lambda display: display.say("error", "failed", "40 of 100", chunk=0, exit_code=65)
    )
    assert "failed  40 of 100 (exit code 65)" in shown
    assert "chunk" not in shown


def test_a_stream_that_is_not_a_terminal_gets_lines(halfway: RunProgress) -> None:
    assert isinstance(open_display(halfway, io.StringIO()), LineDisplay)
