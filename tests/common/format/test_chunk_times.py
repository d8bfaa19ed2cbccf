"""Times of attempts and sample pictures in the attributes of chunk files and checkpoints."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.format.checkpoint_file import Checkpoint, checkpoint_bytes, read_checkpoint
from common.format.chunk_file import METADATA_BYTES, ChunkHeader, read_header, write_chunk
from common.format.chunk_times import (
    MAX_PICTURE_BYTES,
    MOST_ATTEMPTS,
    MOST_PICTURES,
    Attempt,
    ChunkTimes,
    SamplePicture,
    as_attempt,
    briefly,
    computing_seconds,
    join_attempts,
    read_pictures,
    read_times,
)
from tests.merger.runs import make_chunk

if TYPE_CHECKING:
    from pathlib import Path

    from common.format.chunk_file import Chunk


def attempt(minute: int, *, seconds: float = 30, gpus: int = 1) -> Attempt:
    started = f"2026-11-29T01:{minute:02}:00.000+00:00"
    ended = f"2026-11-29T01:{minute:02}:{int(seconds):02}.000+00:00"
    return Attempt(started_at=started, ended_at=ended, images=5, gpus=gpus, seconds=seconds)


TIMES = ChunkTimes(**attempt(5).model_dump(), index=0, waited_seconds={"fetch": 1.5}, earlier=(attempt(1),))


def written(path: Path, chunk: Chunk) -> ChunkHeader:
    write_chunk(path, chunk)
    with path.open("rb") as file:
        return read_header(file, name=path.name)


def picture(number: int, size: int = 4000) -> SamplePicture:
    return SamplePicture(f"https://photos.example/{number}/é", bytes([number]) * (size - 1) + b"\0")


@pytest.mark.parametrize("count", [0, 1, MOST_PICTURES])
def test_a_chunk_file_returns_times_and_pictures(tmp_path: Path, count: int) -> None:
    pictures = [picture(number) for number in range(count)]
    chunk = make_chunk(0, 3, chunk_count=1)
    header = written(tmp_path / "new.h5", dataclasses.replace(chunk, times=TIMES, pictures=pictures))
    assert header.times == TIMES
    assert list(header.pictures) == pictures
    plain = written(tmp_path / "old.h5", chunk)
    assert (plain.times, plain.pictures) == (None, ())
    assert {name: span.sha256 for name, span in header.spans.items()} == {
        name: span.sha256 for name, span in plain.spans.items()
    }


def test_one_read_returns_a_header_with_a_usual_picture(tmp_path: Path) -> None:
    chunk = dataclasses.replace(make_chunk(0, 3, chunk_count=900), times=TIMES, pictures=[picture(1, 4500)])
    header = written(tmp_path / "chunk.h5", chunk)
    assert min(span.offset for span in header.spans.values() if span.rows) <= METADATA_BYTES


def test_attributes_of_another_version_make_no_chunk_invalid() -> None:
    assert read_times({"times": '{"index": "seven"}'}) is None
    assert read_times({"times": "no JSON"}) is None
    assert read_times({"times": 7}) is None
    known = TIMES.model_dump_json().replace('{"', '{"colour": "red", "', 1)
    assert read_times({"times": known}) == TIMES
    too_large = np.zeros(MAX_PICTURE_BYTES + 1, np.uint8)
    assert read_pictures({"sample_url_0": "https://photos.example", "sample_picture_0": too_large}) == ()
    assert read_pictures({"sample_url_0": 7, "sample_picture_0": too_large[:5]}) == ()


def test_a_checkpoint_returns_the_attempt_that_wrote_it() -> None:
    chunk = make_chunk(0, 3, chunk_count=1)
    checkpoint = Checkpoint(
        index=0,
        requested=3,
        rows=np.arange(3, dtype=np.int64),
        vectors=chunk.embeddings,
        provenance=chunk.provenance,
        attempt=attempt(1),
    )
    assert read_checkpoint(checkpoint_bytes(checkpoint), name="c").attempt == attempt(1)
    without = dataclasses.replace(checkpoint, attempt=None)
    assert read_checkpoint(checkpoint_bytes(without), name="c").attempt is None


def test_an_attempt_that_is_known_twice_counts_once_with_its_longest_time() -> None:
    first, longer, other = attempt(1, seconds=10), attempt(1, seconds=40), attempt(2, gpus=2)
    assert join_attempts([other, first, longer, first]) == (longer, other)
    times = TIMES.after([longer, other, as_attempt(TIMES)])
    assert times.attempts == (longer, other, times)
    assert times.all_gpu_seconds == 40 + 60 + 30
    assert times.after(times.earlier) == times


def test_the_attempts_of_a_chunk_are_bounded() -> None:
    many = [
        attempt(1).model_copy(update={"started_at": f"2026-11-29T{hour:02}:{minute:02}:00.000+00:00"})
        for hour in range(10)
        for minute in range(60)
    ]
    assert join_attempts(many) == tuple(many[-MOST_ATTEMPTS:])


def test_time_in_which_several_workers_compute_counts_once() -> None:
    attempts = [attempt(1, seconds=30), attempt(1, seconds=50), attempt(3, seconds=20)]
    unreadable = attempt(5).model_copy(update={"started_at": "yesterday"})
    assert computing_seconds(briefly([*attempts, unreadable])) == 70
