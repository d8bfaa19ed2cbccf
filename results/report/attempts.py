"""The attempts at a run's chunks, as its charts and tables need them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.format.chunk_times import read_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from common.format.chunk_times import ChunkTimes

SHORTEST_SECONDS = 0.001
"""Stands for the duration of an attempt whose two times are equal."""

KINDS: Mapping[str, str] = {
    "encode": "computing vectors",
    "fetch": "waiting for images to arrive",
    "decode": "waiting for images to be decoded",
    "loop": "waiting for the event loop",
    "start": "waiting for the model to load",
    "rest": "starting, and storing the chunk",
    "unknown": "not known",
}
"""What a worker spends its time with. The names are those of `worker.stage_times` for the time of its encoder; `rest`
is the time before and after."""


class TimedAttempt(NamedTuple):
    """One attempt at a chunk. Its start and its end are seconds since 1970."""

    chunk: int
    start: float
    end: float
    images: int
    kind: str
    """What most of the time went to, one of KINDS."""
    is_earlier: bool
    """Whether another attempt wrote the chunk file."""

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds


def timed_attempts(chunks: Sequence[ChunkTimes]) -> list[TimedAttempt]:
    """Return all attempts whose times can be read, in the order of the chunks and of their starts."""
    return [attempt for times in chunks for attempt in _attempts_of(times)]


def _attempts_of(times: ChunkTimes) -> Iterator[TimedAttempt]:
    for attempt in times.attempts:
        start, end = read_time(attempt.started_at), read_time(attempt.ended_at)
        if start is None or end is None or end < start:
            continue
        began = start.timestamp()
        ended = max(end.timestamp(), began + SHORTEST_SECONDS)
        is_last = attempt is times
        kind = main_kind(times) if is_last else "unknown"
        yield TimedAttempt(times.index, began, ended, max(0, attempt.images), kind, not is_last)


def seconds_by_kind(times: ChunkTimes) -> dict[str, float]:
    """Return what the worker spent its time with, in seconds. Kinds of another version count as `unknown`."""
    found: dict[str, float] = {}
    for name, seconds in ({"encode": times.encoded_seconds} | times.waited_seconds).items():
        if seconds > 0:
            kind = name if name in KINDS else "unknown"
            found[kind] = found.get(kind, 0.0) + seconds
    rest = times.seconds - sum(found.values())
    return found | {"rest": rest} if found and rest > 0 else found


def main_kind(times: ChunkTimes) -> str:
    """Return what most of the chunk's time went to, one of KINDS."""
    found = seconds_by_kind(times)
    return max(found, key=lambda kind: found[kind]) if found else "unknown"
