"""Where the time goes: how long each stage worked and waited, and which stage the others wait for.

Several requests and several decoders work at the same time, so their seconds add up to more than the wall clock's.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

Stage = Literal["start", "fetch", "loop", "decode", "encode"]

ENCODE_BUSY = 0.85
"""Share of the time from which the encoder counts as always busy. The rest is the hand-over between batches."""

DECODE_BUSY = 0.7
"""Share of the decoders' time from which they count as always busy. That time excludes their waits for room in a batch.
The share is lower than the encoder's, because decoders share their cores with everything else."""

LOOP_BUSY = 0.85
"""Share of one core from which the event loop counts as always busy."""

ADVICE: Mapping[Stage, str] = {
    "loop": "the event loop that tells the decoders what to fetch fills its core, and a worker has one: only more "
    "workers help (worker.parallelism), several to a GPU where it can be shared (time slicing, MIG)",
    "fetch": "raise worker.fetchConcurrency (EMBEDDER_FETCH_CONCURRENCY), or move the images nearer",
    "decode": "give the pod more CPU cores (worker.resources), and worker.decodeThreads with them",
    "start": "the model took longer to load than the images to embed; larger chunks (a lower chunks.count) share that",
    "encode": "the encoder is the limit, as it should be; only a faster device or more pods help",
}
"""What to do about each bottleneck."""

SLOW_SITES_ADVICE = (
    "some sites serve slowly, and more requests at the same time get no more from them; fetch from a mirror "
    "(EMBEDDER_SOURCES, EMBEDDER_MIRROR_URL), or leave their images to a top-up"
)
"""What to do when fetching is the bottleneck because of slow sites."""


class Snapshot(NamedTuple):
    """Seconds since the start. Those of requests and decoders are sums over all of them."""

    wall: float = 0
    fetch_worked: float = 0
    """Time of requests, from their start to their last byte."""
    fetch_waited: float = 0
    """Time that requests waited for room in memory."""
    loop_worked: float = 0
    """CPU time of the event loop that tells the decoders what to fetch."""
    model_waited: float = 0
    """Time that the encoder's thread waited for the model to be loaded."""
    decode_worked: float = 0
    """Time that decoders decoded and resized."""
    decode_waited: float = 0
    """Time that decoders waited for room in a batch."""
    encode_worked: float = 0
    """Time that the encoder started batches and waited for their vectors."""
    encode_waited: float = 0
    """Time that the encoder waited for a batch."""


class Bottleneck(NamedTuple):
    """The stage that the others waited for."""

    stage: Stage
    share: float
    """From 0 to 1: the share of the time that the encoder waited; for `encode`, the share that it worked."""


class _Measure:
    """A block during which a clock runs. It is no generator, because every image passes several of them."""

    __slots__ = ("_instead_of", "_kind", "_times")

    def __init__(self, times: StageTimes, kind: str, instead_of: str | None) -> None:
        self._times, self._kind, self._instead_of = times, kind, instead_of

    def __enter__(self) -> None:
        self._times.switch(start=self._kind, stop=self._instead_of)

    def __exit__(self, *_: object) -> None:
        self._times.switch(start=self._instead_of, stop=self._kind)


class StageTimes:
    """Clocks that many threads start and stop.

    A clock that runs n times at once gains n seconds in a second. It is kept as one sum: a start at time s subtracts s,
    a stop at time t adds t, and a snapshot adds the present time once for each start without a stop.
    """

    def __init__(self, *, decode_threads: int) -> None:
        self._decode_threads = decode_threads
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._sums = dict.fromkeys(Snapshot._fields, 0.0)
        self._running = dict.fromkeys(Snapshot._fields, 0)
        self._loop_clock: int | None = None

    def start(self) -> None:
        """Count the wall clock's time from now on."""
        with self._lock:
            self._started = time.monotonic()

    def watch_loop(self) -> None:
        """Count the calling thread's CPU time as the event loop's, until it calls `forget_loop`."""
        with self._lock:
            self._loop_clock = time.pthread_getcpuclockid(threading.get_ident())

    def forget_loop(self) -> None:
        with self._lock:
            self._sums["loop_worked"] = self._loop_seconds()
            self._loop_clock = None

    def _loop_seconds(self) -> float:
        if self._loop_clock is None:
            return self._sums["loop_worked"]
        return time.clock_gettime(self._loop_clock)

    def measure(self, kind: str, *, instead_of: str | None = None) -> _Measure:
        """Run the clock `kind`, a field of Snapshot, during a `with` block.

        `instead_of` names a clock that runs around this block and stands still during it.
        """
        return _Measure(self, kind, instead_of)

    def add(self, **seconds: float) -> None:
        """Add times, named after fields of Snapshot, that others have measured."""
        with self._lock:
            for kind, more in seconds.items():
                self._sums[kind] += more

    def switch(self, *, start: str | None, stop: str | None) -> None:
        """Start one clock and stop another one."""
        with self._lock:
            now = time.monotonic()
            if start is not None:
                self._sums[start] -= now
                self._running[start] += 1
            if stop is not None:
                self._sums[stop] += now
                self._running[stop] -= 1

    def snapshot(self) -> Snapshot:
        with self._lock:
            now = time.monotonic()
            seconds = {kind: total + now * self._running[kind] for kind, total in self._sums.items()}
            seconds |= {"loop_worked": self._loop_seconds(), "wall": now - self._started}
        return Snapshot(**seconds)

    def bottleneck(self, now: Snapshot, *, since: Snapshot | None = None) -> Bottleneck:
        """Return the stage that the others waited for between two snapshots, or since the start without `since`.

        The encoder should be busy all the time. While it is not, it waits for the model to load, or for squares. For
        missing squares the cause is the decoders if they are busy, else the event loop if it is busy, else the sources.
        """
        spent = _between(since, now)
        wall = max(spent.wall, 1e-9)
        encoding = spent.encode_worked / wall
        if encoding >= ENCODE_BUSY:
            return Bottleneck("encode", min(1.0, encoding))
        if spent.model_waited > spent.encode_waited:
            return Bottleneck("start", spent.model_waited / wall)
        return Bottleneck(self._squares_wait_for(spent), spent.encode_waited / wall)

    def waits(self, now: Snapshot, *, since: Snapshot | None = None) -> dict[Stage, float]:
        """Return for how many seconds the encoder waited between two snapshots, by the stage that it waited for."""
        spent = _between(since, now)
        return {"start": spent.model_waited, self._squares_wait_for(spent): spent.encode_waited}

    def _squares_wait_for(self, spent: Snapshot) -> Stage:
        wall = max(spent.wall, 1e-9)
        if spent.decode_worked >= DECODE_BUSY * (wall * self._decode_threads - spent.decode_waited):
            return "decode"
        return "loop" if spent.loop_worked >= LOOP_BUSY * wall else "fetch"


def _between(since: Snapshot | None, now: Snapshot) -> Snapshot:
    """Return the seconds between two snapshots, or since the start without `since`."""
    return Snapshot(*(after - before for after, before in zip(now, since or Snapshot(), strict=True)))
