"""How far a run on this machine is, from what its workers log."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from rich.progress import Progress

from common.logs import CHUNK_PROGRESS, CHUNK_STARTED, MANIFEST_FILES, ROWS_RESUMED, ROWS_TAKEN_OVER, SLOW_SITE
from embedder.local.slow_sites import SlowSite, all_workers, read_slow_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from common.logs import LogLine

RATE_WINDOW_SECONDS = 60
"""Time in seconds over which the rate is measured. It covers several log lines of a worker, and it is short enough to
show that a source has become slow."""


class Phase(Enum):
    WAITING = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(slots=True)
class ChunkProgress:
    phase: Phase = Phase.WAITING
    settled: int = 0
    """Number of images that are embedded or in the ledger."""
    of: int | None = None
    """Number of images in the chunk, None until its worker has logged it."""
    deferred: int = 0
    """Number of images whose site serves slowly and whose turn did not come."""
    waiting_on: str = ""
    """The stage that the worker waits for, as it logged last."""
    slow_sites: dict[str, tuple[int, SlowSite]] = field(default_factory=dict)
    """The sites that serve slowly, by name, each after the number of progress lines when it was logged last."""
    lines: int = 0
    """Number of progress lines of the worker."""

    @property
    def current_slow_sites(self) -> list[SlowSite]:
        """The sites that the worker still logs: it names each slow site once beside each progress line."""
        return [site for seen, site in self.slow_sites.values() if seen >= self.lines - 1]


class RunProgress:
    """Counts over all chunks of a run. It does not know how they are shown."""

    def __init__(
        self, indexes: Iterable[int], *, is_undivided: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_undivided = is_undivided
        """Whether the run has one chunk, so that nobody needs to be told of chunks."""
        self._chunks = {index: ChunkProgress() for index in indexes}
        # This progress bar is never shown: it only measures the rate.
        self._meter = Progress(speed_estimate_period=RATE_WINDOW_SECONDS, get_time=clock, disable=True)
        self._settled_here = self._meter.add_task("images settled by this command", total=None)
        self.skipped = ""
        """Which files of the listed places are no part of the manifest, in words; empty if there are none."""
        self.merge_note: str | None = None
        """The merger's latest log line; None while it does not run."""

    def start(self, index: int) -> None:
        """Note that a worker has started on the chunk."""
        self._chunks[index] = ChunkProgress(Phase.RUNNING)

    def observe(self, index: int, line: LogLine) -> None:
        """Take a worker's line: its files, its number of rows, or how far it is. Other lines change nothing."""
        chunk = self._chunks[index]
        if line.event == MANIFEST_FILES:
            self.skipped = line.values.get("skipped", "")
        elif line.event == SLOW_SITE and (site := read_slow_site(line)) is not None:
            chunk.slow_sites[site.site] = chunk.lines, site
        # Rows that an earlier attempt or an earlier run has settled do not count for the rate.
        elif line.event == ROWS_TAKEN_OVER:
            chunk.settled += (line.count("embedded") or 0) + (line.count("failed") or 0)
        elif line.event == ROWS_RESUMED:
            chunk.settled += line.count("rows") or 0
        elif line.event == CHUNK_STARTED:
            chunk.of = line.count("rows")
            self._meter.advance(self._settled_here, 0)
        elif line.event == CHUNK_PROGRESS and (rows := line.count("of")) is not None:
            settled = line.count("images") or 0
            self._meter.advance(self._settled_here, max(0, settled - chunk.settled))
            chunk.settled, chunk.of = settled, rows
            chunk.deferred = line.count("deferred") or 0
            chunk.waiting_on = line.values.get("waiting_on", "")
            chunk.lines += 1

    def wait(self, index: int) -> None:
        """Note that an attempt at the chunk has failed and that another one will follow."""
        self._chunks[index] = ChunkProgress()

    def finish(self, index: int, *, rows: int | None = None) -> None:
        """Note that the chunk is in the store. `rows` is its number of images, where no worker has logged it."""
        chunk = self._chunks[index]
        chunk.of = rows if rows is not None else chunk.of
        chunk.settled = chunk.of or 0
        chunk.phase = Phase.DONE

    def fail(self, index: int) -> None:
        """Note that the last attempt at the chunk has failed."""
        self._chunks[index].phase = Phase.FAILED

    def chunks(self, phase: Phase) -> int:
        """Return the number of chunks in that phase."""
        return sum(chunk.phase is phase for chunk in self._chunks.values())

    @property
    def chunk_count(self) -> int:
        return len(self._chunks)

    @property
    def settled(self) -> int:
        """Return the number of images that are embedded or in the ledger, those of an earlier command included."""
        return sum(chunk.settled for chunk in self._chunks.values())

    @property
    def deferred(self) -> int:
        """Return the number of images whose turn did not come, in the chunks that this command has computed."""
        return sum(chunk.deferred for chunk in self._chunks.values())

    @property
    def slow_sites(self) -> list[SlowSite]:
        """Return the sites that serve the running workers slowly, those with the most images left first."""
        running = (chunk for chunk in self._chunks.values() if chunk.phase is Phase.RUNNING)
        return all_workers(site for chunk in running for site in chunk.current_slow_sites)

    @property
    def is_total_known(self) -> bool:
        return all(chunk.of is not None or chunk.phase is Phase.DONE for chunk in self._chunks.values())

    @property
    def total(self) -> int | None:
        """Return the number of images in all chunks. A chunk without a count is taken to be as large as the others."""
        return self._with_uncounted(sum(chunk.of or 0 for chunk in self._chunks.values()))

    @property
    def rate_per_second(self) -> float | None:
        """Return the number of images settled per second in the last minute, None while it is unknown."""
        return self._meter.tasks[0].speed or None

    @property
    def eta_seconds(self) -> float | None:
        """Return the seconds until no image is left, failed chunks aside; None while it is unknown."""
        active = [chunk for chunk in self._chunks.values() if chunk.phase in {Phase.WAITING, Phase.RUNNING}]
        remaining = self._with_uncounted(sum(chunk.of - chunk.settled for chunk in active if chunk.of is not None))
        rate = self.rate_per_second
        return None if remaining is None or rate is None else remaining / rate

    @property
    def waiting_on(self) -> str:
        """Return the stage that most running workers wait for. Empty where no worker has logged one."""
        stages = Counter(each.waiting_on for each in self._chunks.values() if each.phase is Phase.RUNNING)
        return max(stages, key=stages.__getitem__, default="")

    def _with_uncounted(self, counted: int) -> int | None:
        """Return `counted` and an estimate for the chunks without a count, None where no chunk has a count."""
        known = [chunk.of for chunk in self._chunks.values() if chunk.of is not None]
        uncounted = sum(
            chunk.of is None and chunk.phase in {Phase.WAITING, Phase.RUNNING} for chunk in self._chunks.values()
        )
        if uncounted and not known:
            return None
        return counted + (round(uncounted * sum(known) / len(known)) if uncounted else 0)
