"""How far a run on this machine is, from what its workers log."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from common.logs import LogLine

RATE_WINDOW_SECONDS = 60
"""What the rate is measured over: several of the workers' lines, and short enough to show a source that slows down."""


class Phase(Enum):
    WAITING = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(slots=True)
class ChunkProgress:
    phase: Phase = Phase.WAITING
    settled: int = 0
    """Images embedded or in the ledger."""
    of: int | None = None
    """Images of the chunk, None until its worker has said."""
    waiting_on: str = ""


class RunProgress:
    """Counts over all chunks of a run, kept from its events. Knows nothing of how it is shown."""

    def __init__(self, indexes: Iterable[int], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._chunks = {index: ChunkProgress() for index in indexes}
        self._clock = clock
        self._settled_here = 0
        self._samples: deque[tuple[float, int]] = deque()
        self.merge_note: str | None = None
        """The merger's latest word; None while it does not run."""

    def start(self, index: int) -> None:
        self._chunks[index] = ChunkProgress(Phase.RUNNING)

    def observe(self, index: int, line: LogLine) -> None:
        """Take a worker's line: `started … rows=N` or `embedded … images=n of=N`; others say nothing of progress."""
        chunk = self._chunks[index]
        rows = _count(line.values.get("rows" if line.event == "started" else "of"))
        if line.event not in {"started", "embedded"} or rows is None:
            return
        settled = _count(line.values.get("images")) or 0
        now = self._clock()
        if not self._samples:
            self._samples.append((now, 0))
        self._settled_here += max(0, settled - chunk.settled)
        self._samples.append((now, self._settled_here))
        while self._samples[1][0] < now - RATE_WINDOW_SECONDS:
            self._samples.popleft()
        chunk.settled, chunk.of = settled, rows
        chunk.waiting_on = line.values.get("waiting_on", "")

    def wait(self, index: int) -> None:
        """The chunk's attempt came to nothing; there will be another."""
        self._chunks[index] = ChunkProgress()

    def finish(self, index: int, *, rows: int | None = None) -> None:
        """The chunk is in the store; `rows` where its worker has not told how many it has."""
        chunk = self._chunks[index]
        chunk.of = rows if rows is not None else chunk.of
        chunk.settled = chunk.of or 0
        chunk.phase = Phase.DONE

    def fail(self, index: int) -> None:
        self._chunks[index].phase = Phase.FAILED

    def chunks(self, phase: Phase) -> int:
        return self._phases()[phase]

    def _phases(self) -> Counter[Phase]:
        return Counter(chunk.phase for chunk in self._chunks.values())

    @property
    def chunk_count(self) -> int:
        return len(self._chunks)

    @property
    def settled(self) -> int:
        return sum(chunk.settled for chunk in self._chunks.values())

    @property
    def is_total_known(self) -> bool:
        return all(chunk.of is not None or chunk.phase is Phase.DONE for chunk in self._chunks.values())

    @property
    def total(self) -> int | None:
        """Return the images of all chunks; those not yet counted are taken to be as large as the others are."""
        return self._with_uncounted(sum(chunk.of or 0 for chunk in self._chunks.values()))

    @property
    def rate_per_second(self) -> float | None:
        """Return the images settled in a second of late, None before anything can be said."""
        if not self._samples:
            return None
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - start) if end - start >= 1 and after > before else None

    @property
    def eta_seconds(self) -> float | None:
        """Return the seconds until the last chunk that still can is embedded, None before anything can be said."""
        active = [chunk for chunk in self._chunks.values() if chunk.phase in {Phase.WAITING, Phase.RUNNING}]
        remaining = self._with_uncounted(sum(chunk.of - chunk.settled for chunk in active if chunk.of is not None))
        rate = self.rate_per_second
        return None if remaining is None or rate is None else remaining / rate

    @property
    def waiting_on(self) -> str:
        """Return the stage that most running workers wait for, "" where none has said."""
        stages = Counter(each.waiting_on for each in self._chunks.values() if each.phase is Phase.RUNNING)
        return max(stages, key=stages.__getitem__, default="")

    def _with_uncounted(self, counted: int) -> int | None:
        known = [chunk.of for chunk in self._chunks.values() if chunk.of is not None]
        uncounted = sum(
            chunk.of is None and chunk.phase in {Phase.WAITING, Phase.RUNNING} for chunk in self._chunks.values()
        )
        if uncounted and not known:
            return None
        return counted + (round(uncounted * sum(known) / len(known)) if uncounted else 0)


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None
