"""How a run on this machine is shown: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from common.durations import format_duration
from common.logs import SLOW_SITE, log, printable
from embedder.local.progress import Phase
from embedder.local.slow_sites import MOST_SHOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from rich.console import RenderableType

    from embedder.local.progress import RunProgress
    from embedder.local.slow_sites import SlowSite

Level = Literal["info", "warning", "error"]


class Display(Protocol):
    tick_seconds: float
    """The time in seconds between two calls of `tick`."""
    worker_progress_seconds: str
    """The time in seconds between two progress lines of a worker that suits this display."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def tick(self) -> None:
        """Show how far the run is."""

    def say(self, level: Level, event: str, message: str, *, chunk: int | None, exit_code: int | None = None) -> None:
        """Show an event of a chunk, or of the whole run where `chunk` is None."""

    def forward(self, line: str) -> None:
        """Show a log line of a worker or of the merger."""


class LineDisplay:
    """For files, pipes and CI: one log line for each event, and one every ten seconds for the progress."""

    tick_seconds: float = 10
    worker_progress_seconds = "5"

    def __init__(self, progress: RunProgress) -> None:
        self._progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def tick(self) -> None:
        progress = self._progress
        if progress.merge_note is not None:
            log.info("merging", note=progress.merge_note)
            return
        values: dict[str, object] = {"images": progress.settled}
        optional = {
            "of" if progress.is_total_known else "of_about": progress.total,
            "rate_per_s": progress.rate_per_second,
            "eta_s": None if progress.eta_seconds is None else round(progress.eta_seconds),
            "deferred": progress.deferred or None,
            "waiting_on": progress.waiting_on or None,
        }
        values |= {name: value for name, value in optional.items() if value is not None}
        values |= {f"chunks_{phase.name.lower()}": progress.chunks(phase) for phase in Phase}
        log.info("progress", **values)
        sites = progress.slow_sites
        for site in sites[:MOST_SHOWN]:
            done_in = {} if site.done_in_seconds is None else {"done_in_s": round(site.done_in_seconds)}
            log.info(SLOW_SITE, site=site.site, rate_per_s=site.rate_per_second, left=site.left, **done_in)
        if more := sites[MOST_SHOWN:]:
            log.info("more_slow_sites", sites=len(more), left=sum(site.left for site in more))

    def say(self, level: Level, event: str, message: str, *, chunk: int | None, exit_code: int | None = None) -> None:
        about = {"chunk": chunk, "exit_code": exit_code}
        values = {name: value for name, value in about.items() if value is not None}
        {"info": log.info, "warning": log.warning, "error": log.error}[level](event, **values, message=message)

    def forward(self, line: str) -> None:
        with suppress(OSError):  # a line that cannot be written is lost, as for this program's own log
            sys.stderr.write(f"{line}\n")


class TerminalDisplay:
    """For people: a bar that stays at the bottom of the terminal, and events above it."""

    tick_seconds: float = 0.25
    worker_progress_seconds = "0.5"

    def __init__(self, progress: RunProgress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._bar = _RunBar(console)

    def __enter__(self) -> Self:
        self._bar.show(self._progress)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def tick(self) -> None:
        self._bar.show(self._progress)
        self._bar.refresh()

    def say(self, level: Level, event: str, message: str, *, chunk: int | None, exit_code: int | None = None) -> None:
        style = {"info": "green", "warning": "yellow", "error": "bold red"}[level]
        is_named = chunk is not None and not self._progress.is_undivided
        about = Text(f"chunk {chunk} {event}" if is_named else event, style=style)
        code = f" (exit code {exit_code})" if exit_code else ""
        self._console.print(about.append(f"  {message}{code}", style="default not bold"), soft_wrap=True)
        self.tick()

    def forward(self, line: str) -> None:
        # A person who watches does not need the time of a line.
        self._console.print(Text(line.partition("Z ")[2] or line, style="dim"), soft_wrap=True)
        self.tick()


class _RunBar(Progress):
    """The bar of the run's images, and below it a line about the chunks.

        embedding ━━━━━━━━━━━━━━━━━━━━━━━╺━━━━━━━━━━━━━━━ 12,000 of about 40,000 images · 600/s · 47s left
                  1 of 4 chunks done · 1 running · waiting on fetch

    Below them is a line for each slow site. While chunks are merged, the bar pulses, and the line shows the merger's
    latest log line.
    """

    def __init__(self, console: Console) -> None:
        self._below = [""]  # rich renders once while it is set up
        super().__init__(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(
                bar_width=None,
                complete_style="cyan",
                finished_style="green",
                pulse_style="cyan",
                table_column=Column(ratio=1, min_width=8),
            ),
            TextColumn("{task.fields[images]}", markup=False),
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        # rich shows a task without a total as a bar that pulses.
        self._embedding = self.add_task("embedding", total=None, images="")
        self._merging = self.add_task("merging  ", total=None, images="")

    def show(self, progress: RunProgress) -> None:
        """Take over how far the run is, for the next refresh."""
        is_merging = progress.merge_note is not None
        self.update(
            self._embedding,
            completed=progress.settled,
            total=progress.total,
            images=_describe_images(progress),
            visible=not is_merging,
        )
        self.update(self._merging, images=f"{progress.settled:,} images", visible=is_merging)
        if progress.merge_note is not None:
            self._below = [progress.merge_note]
        else:
            self._below = [_describe_chunks(progress), *_describe_slow_sites(progress.slow_sites)]

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield what rich shows: the visible tasks, and the lines below them."""
        yield from super().get_renderables()
        for line in self._below:
            yield Text(f"          {line}", style="dim", no_wrap=True, overflow="ellipsis")


def _describe_images(progress: RunProgress) -> str:
    about = "" if progress.is_total_known else "about "
    parts = [f"{progress.settled:,} of {about}{progress.total:,} images" if progress.total else "starting"]
    if progress.rate_per_second is not None:
        parts.append(_describe_rate(progress.rate_per_second))
    if progress.eta_seconds is not None:
        parts.append(f"{format_duration(progress.eta_seconds)} left")
    return " · ".join(parts)


def _describe_rate(per_second: float) -> str:
    return f"{per_second:,.{0 if per_second >= 100 else 1}f}/s"


def _describe_chunks(progress: RunProgress) -> str:
    if progress.is_undivided:
        parts = [phase.name.lower() for phase in Phase if progress.chunks(phase)]
    else:
        parts = [f"{progress.chunks(Phase.DONE):,} of {progress.chunk_count:,} chunks done"]
        parts.append(f"{progress.chunks(Phase.RUNNING):,} running")
        if progress.chunks(Phase.FAILED):
            parts.append(f"{progress.chunks(Phase.FAILED):,} failed")
    if progress.deferred:
        parts.append(f"{progress.deferred:,} deferred")
    if progress.waiting_on:
        parts.append(f"waiting on {progress.waiting_on}")
    return " · ".join(parts)


def _describe_slow_sites(sites: Sequence[SlowSite]) -> list[str]:
    lines = []
    for site in sites[:MOST_SHOWN]:
        parts = [f"{printable(site.site)} serves {_describe_rate(site.rate_per_second)}", f"{site.left:,} left"]
        if site.done_in_seconds is not None:
            parts.append(f"done in {format_duration(site.done_in_seconds)}")
        lines.append(" · ".join(parts))
    if more := sites[MOST_SHOWN:]:
        lines.append(f"and {len(more):,} more slow sites with {sum(site.left for site in more):,} images")
    return lines


def open_display(progress: RunProgress, stream: TextIO) -> Display:
    """Return the display that suits the stream: a bar on a terminal that can move its cursor, else log lines."""
    console = Console(file=stream, highlight=False)
    if stream.isatty() and not console.is_dumb_terminal:
        return TerminalDisplay(progress, console)
    return LineDisplay(progress)
