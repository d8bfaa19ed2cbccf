"""Where the time goes: what each stage worked and waited, and which one the others wait for."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY = 0.85
"""Share of the time from which on the encoder counts as always busy; the rest is hand-over."""

DECODE_BUSY = 0.7
"""The same of the decoders, while there is room for what they make: they share cores and interpreter with the rest."""

LOOP_BUSY = 0.85
"""Share of a core from which on the event loop counts as full."""

ADVICE = {
    "loop": "the event loop that fetches and hands over fills its core, and a worker has one: only more workers help "
    "(worker.parallelism), several to a GPU where it can be shared (time slicing, MIG)",
    "fetch": "raise worker.fetchConcurrency (EMBEDDER_FETCH_CONCURRENCY), or move the images nearer",
    "decode": "give the pod more CPU cores (worker.resources), and worker.decodeThreads with them",
    "start": "the model took longer to load than the images to embed; larger chunks (a lower chunks.count) share that",
    "encode": "the encoder is the limit, as it should be; only a faster device or more pods help",
}


class Snapshot(NamedTuple):
    """Seconds since the start; of all requests, all decoders, together."""

    wall: float = 0
    fetch_worked: float = 0
    """By requests, from their start to the last byte."""
    fetch_waited: float = 0
    """By requests, for room in memory."""
    loop_worked: float = 0
    """CPU time of the event loop that fetches and hands over."""
    model_waited: float = 0
    """By the encoder's thread, for the model to be loaded."""
    decode_worked: float = 0
    decode_waited: float = 0
    """For room in a batch."""
    encode_worked: float = 0
    encode_waited: float = 0
    """For a batch."""


class StageTimes:
    def __init__(self, *, decode_threads: int) -> None:
        self._decode_threads = decode_threads
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(Snapshot._fields, 0.0)
        self._open = dict.fromkeys(Snapshot._fields, 0)
        self._loop_clock: int | None = None

    def watch_loop(self) -> None:
        """Count the calling thread's CPU time as the event loop's, until `forget_loop`, which it must call too."""
        with self._lock:
            self._loop_clock = time.pthread_getcpuclockid(threading.get_ident())

    def forget_loop(self) -> None:
        with self._lock:
            self._seconds["loop_worked"] = self._loop_seconds()
            self._loop_clock = None

    def _loop_seconds(self) -> float:
        if self._loop_clock is None:
            return self._seconds["loop_worked"]
        return time.clock_gettime(self._loop_clock)

    @contextmanager
    def measure(self, kind: str, *, instead_of: str | None = None) -> Iterator[None]:
        """Add the block's duration to `kind`, a field of Snapshot; a snapshot within it has the part so far.

        A block that is measured around this one, as `instead_of`, is without it.
        """
        self._switch(on=kind, off=instead_of)
        try:
            yield
        finally:
            self._switch(on=instead_of, off=kind)

    def _switch(self, *, on: str | None, off: str | None) -> None:
        with self._lock:
            now = time.monotonic()
            for kind, change in ((on, 1), (off, -1)):
                if kind is not None:
                    self._seconds[kind] -= change * now
                    self._open[kind] += change

    def snapshot(self) -> Snapshot:
        with self._lock:
            now = time.monotonic()
            spent = {kind: seconds + now * self._open[kind] for kind, seconds in self._seconds.items()}
            spent |= {"loop_worked": self._loop_seconds(), "wall": now - self._started}
        return Snapshot(**spent)

    def waiting_on(self, now: Snapshot, *, since: Snapshot | None = None) -> tuple[str, float]:
        """Return what the others waited for between two snapshots (from the start without one), and its share.

        The encoder is to be busy all the time. While it is not, it waits for the model to load or for squares; for
        those the decoders are to blame if they are busy themselves, else the event loop if it is, else the sources.
        """
        spent = Snapshot(*(after - before for after, before in zip(now, since or Snapshot(), strict=True)))
        wall = max(spent.wall, 1e-9)
        encoding = spent.encode_worked / wall
        if encoding >= BUSY:
            return "encode", min(1.0, encoding)
        if spent.model_waited > spent.encode_waited:
            return "start", spent.model_waited / wall
        is_decoding = spent.decode_worked >= DECODE_BUSY * (wall * self._decode_threads - spent.decode_waited)
        stage = "decode" if is_decoding else "loop" if spent.loop_worked >= LOOP_BUSY * wall else "fetch"
        return stage, spent.encode_waited / wall
