"""When the chunks were computed, and what that took: for summary.json and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.format.chunk_times import briefly, computing_seconds, read_time
from common.run.summary import MOST_CHUNK_TIMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.format.chunk_times import ChunkTimes
    from common.run.summary import Summary
    from merger.chunks import Inputs, StoredChunk


class Times(NamedTuple):
    chunks: list[ChunkTimes]
    """In the order of the indexes."""
    gpu_seconds: float
    """Of all attempts that are known, also of chunks that are not in `chunks`."""
    computing_seconds: float
    """Time in which at least one worker computed, in seconds."""


def collect_times(inputs: Inputs, earlier: Summary | None) -> Times:
    """Return the times of the chunks, from their files and from the summary of the result that is replaced.

    `earlier` has the attempts that computed the chunks before a top-up. An attempt that both know counts once.
    """
    known = {} if earlier is None else {times.index: times for times in earlier.chunk_times}
    chunks = []
    for chunk in inputs.chunks:
        times, before = chunk.header.times, known.get(chunk.header.index)
        if times is None:
            times = before
        elif before is not None:
            times = times.after(before.attempts)
        if times is not None:
            chunks.append(times)
    if inputs.provenance.chunk_count > MOST_CHUNK_TIMES:
        return _of_many(inputs.chunks, chunks, earlier)
    attempts = briefly(attempt for times in chunks for attempt in times.attempts)
    return Times(chunks, sum(times.all_gpu_seconds for times in chunks), computing_seconds(attempts))


def _of_many(stored: Sequence[StoredChunk], chunks: list[ChunkTimes], earlier: Summary | None) -> Times:
    """Return the times of a run that keeps only those of some chunks. What an earlier merge counted ended before it."""
    attempts = [attempt for chunk in stored for attempt in chunk.attempts]
    gpu_seconds = seconds = 0.0
    if earlier is not None and (merged := read_time(earlier.created_at)) is not None:
        attempts = [attempt for attempt in attempts if attempt.ended > merged.timestamp()]
        gpu_seconds, seconds = earlier.gpu_hours * 3600, earlier.computing_seconds
    gpu_seconds += sum(attempt.gpu_seconds for attempt in attempts)
    return Times(chunks, gpu_seconds, seconds + computing_seconds(attempts))
