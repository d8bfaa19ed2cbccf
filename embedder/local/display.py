"""How a run on this machine is shown: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.durations import format_duration
from common.logs import log
from embedder.local.progress import Phase

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType

    from embedder.local.progress import RunProgress

Level = Literal["info", "warning", "error"]


class Display(Protocol):
    tick_seconds: float
    """How often `tick` wants to be called."""
    worker_progress_seconds: str
    """How often a worker best logs its progress for this display."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def tick(self) -> None:
        """Show how far the run is."""

    def say(self, level: Level, event: str, message: str, *, chunk: int | None, exit_code: int | None = None) -> None:
        """Tell of an event, of a chunk or (None) of the whole run."""

    def forward(self, line: str) -> None:
        """Show a worker's own line."""


class LineDisplay:
    """For files, pipes and CI: one log line each, how far the run is every ten seconds."""

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
            "waiting_on": progress.waiting_on or None,
        }
        values |= {name: value for name, value in optional.items() if value is not None}
        values |= {f"chunks_{phase.name.lower()}": progress.chunks(phase) for phase in Phase}
        log.info("progress", **values)

    def say(self, level: Level, event: str, message: str, *, chunk: int | None, exit_code: int | None = None) -> None:
        about = {"chunk": chunk, "exit_code": exit_code}
        values = {name: value for name, value in about.items() if value is not None}
        {"info": log.info, "warning": log.warning, "error": log.error}[level](event, **values, message=message)

    def forward(self, line: str) -> None:
        with suppress(OSError):  # as for the log's own lines
            sys.stderr.write(f"{line}\n")


class TerminalDisplay:
    """For people: a bar that stays at the bottom, events above it."""

    tick_seconds: float = 0.25
    worker_progress_seconds = "0.5"

    def __init__(self, progress: RunProgress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True, get_renderable=self._render)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def tick(self) -> None:
        self._live.refresh()

    def say(self, level: Level, event: str, message: str, *, chunk: int | None, exit_code: int | None = None) -> None:
        style = {"info": "green", "warning": "yellow", "error": "bold red"}[level]
        about = Text(event if chunk is None else f"chunk {chunk} {event}", style=style)
        code = f" (exit code {exit_code})" if exit_code else ""
        self._console.print(about.append(f"  {message}{code}", style="default not bold"), soft_wrap=True)
        self._live.refresh()

    def forward(self, line: str) -> None:
        # The time of a line says nothing to someone who watches.
        self._console.print(Text(line.partition("Z ")[2] or line, style="dim"), soft_wrap=True)
        self._live.refresh()

    def _render(self) -> RenderableType:
        progress = self._progress
        total = progress.total
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1, min_width=8)
        bar.add_column(no_wrap=True)
        merging = progress.merge_note is not None
        # It pulses where the end is not known.
        shown = ProgressBar(
            total=total,
            completed=progress.settled,
            pulse=merging or total is None,
            complete_style="cyan",
            finished_style="green",
            pulse_style="cyan",
        )
        bar.add_row(Text("merging  " if merging else "embedding", style="bold"), shown, self._images())
        return Group(bar, Text(f"          {self._chunks()}", style="dim", no_wrap=True, overflow="ellipsis"))

    def _images(self) -> Text:
        progress = self._progress
        if progress.merge_note is not None:
            return Text(f"{progress.settled:,} images")
        about = "" if progress.is_total_known else "about "
        parts = [f"{progress.settled:,} of {about}{progress.total:,} images" if progress.total else "starting"]
        if progress.rate_per_second is not None:
            parts.append(f"{progress.rate_per_second:,.{0 if progress.rate_per_second >= 100 else 1}f}/s")
        if progress.eta_seconds is not None:
            parts.append(f"{format_duration(progress.eta_seconds)} left")
        return Text(" · ".join(parts))

    def _chunks(self) -> str:
        progress = self._progress
        if progress.merge_note is not None:
            return progress.merge_note
        parts = [f"{progress.chunks(Phase.DONE):,} of {progress.chunk_count:,} chunks done"]
        parts.append(f"{progress.chunks(Phase.RUNNING):,} running")
        if progress.chunks(Phase.FAILED):
            parts.append(f"{progress.chunks(Phase.FAILED):,} failed")
        if progress.waiting_on:
            parts.append(f"waiting on {progress.waiting_on}")
        return " · ".join(parts)


def open_display(progress: RunProgress, stream: TextIO) -> Display:
    """Return the display that suits the stream: a bar on a terminal that can move its cursor, else lines."""
    console = Console(file=stream, highlight=False)
    if stream.isatty() and not console.is_dumb_terminal:
        return TerminalDisplay(progress, console)
    return LineDisplay(progress)
