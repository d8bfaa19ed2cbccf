"""How an export is shown: a bar on a terminal, log lines elsewhere. Both go to standard error."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from common.durations import format_duration
from common.logs import log
from results.export.progress import Step

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

LINE_SECONDS = 10
"""Time in seconds between two lines of progress in a log."""

BAR_SECONDS = 0.2
"""Time in seconds between two looks of the bar."""

RATE_WINDOW_SECONDS = 30
"""Time in seconds over which the rate is measured."""


class ExportDisplay:
    """See `results.export.progress.Progress`."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._is_bar = sys.stderr.isatty() and not console.is_dumb_terminal
        self._bar = Progress(
            TextColumn("{task.description:9}", style="bold", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[said]}", markup=False),
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
            speed_estimate_period=RATE_WINDOW_SECONDS,
            disable=not self._is_bar,
        )
        self._task = self._bar.add_task("", total=None, said="")
        self._step = Step.WRITING
        self._total = self._done = 0
        self._shown = 0.0

    def shown(self) -> AbstractContextManager[object]:
        """Show the bar until the block ends."""
        return self._bar

    def begin(self, step: Step, total: int) -> None:
        self._step, self._total, self._done = step, total, 0
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(step.value, total=total or None, said="")
        self._shown = time.monotonic()
        if self._is_bar:
            self._bar.refresh()
        elif not total:
            log.info("exporting", step=step.value)

    def advance(self, units: int) -> None:
        self._done += units
        self._bar.advance(self._task, units)
        now = time.monotonic()
        if now - self._shown < (BAR_SECONDS if self._is_bar else LINE_SECONDS):
            return
        self._shown = now
        if self._is_bar:
            self._bar.update(self._task, said=self._words())
            self._bar.refresh()
        else:
            self._log()

    def _measured(self) -> tuple[float | None, float | None]:
        """Return the units per second and the seconds that are left, None where they are not known yet."""
        task = next(task for task in self._bar.tasks if task.id == self._task)
        speed = task.speed
        return speed, (self._total - self._done) / speed if speed else None

    def _words(self) -> str:
        speed, left = self._measured()
        parts = [f"{_amount(self._step, self._done)} of {_amount(self._step, self._total)}"]
        parts += [] if speed is None else [f"{_amount(self._step, speed)}/s"]
        parts += [] if left is None else [f"{format_duration(left)} left"]
        return " · ".join(parts)

    def _log(self) -> None:
        speed, left = self._measured()
        unit = "bytes" if self._step is Step.UPLOADING else "rows"
        optional = {"rate_per_s": speed, "eta_s": None if left is None else round(left)}
        values = {name: value for name, value in optional.items() if value is not None}
        log.info("exporting", step=self._step.value, **{unit: self._done}, of=self._total, **values)


def _amount(step: Step, units: float) -> str:
    return f"{units / 1e6:,.0f} MB" if step is Step.UPLOADING else f"{units:,.0f}"
