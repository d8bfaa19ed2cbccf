"""What a worker says about itself in its chunk file, for the report of the run."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from common.format.chunk_times import MAX_PICTURE_BYTES, read_time
from common.store import open_store
from tests.worker.worker_process import PHOTOS, read_chunk, read_header_of, run_worker, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from common.format.chunk_file import ChunkHeader
    from common.format.chunk_times import ChunkTimes


@pytest.fixture(autouse=True)
def _quick_model(quick_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDER_MODEL", str(quick_clip))


def computed(folder: Path, *, index: int = 0, **settings: object) -> ChunkHeader:
    """Embed the example photos, and return the header of the chunk file."""
    manifest = write_manifest(folder, [*map(str, PHOTOS), str(folder / "gone.jpg")])
    ended = run_worker(index=index, run_uri=folder / "run", manifest_uri=manifest, max_failure_ratio=0.5, **settings)
    assert ended.exit_code == 0, ended.log
    return read_header_of(open_store(str(folder / "run")), index)


def times_of(header: ChunkHeader) -> ChunkTimes:
    assert header.times is not None
    return header.times


def test_a_chunk_file_says_when_and_how_it_was_computed(tmp_path: Path) -> None:
    began = datetime.now(UTC)
    times = times_of(computed(tmp_path, progress_seconds=0.5, counted_failures=2, uncounted_failures=1))
    ended = datetime.now(UTC)
    started_at, ended_at = read_time(times.started_at), read_time(times.ended_at)
    assert started_at is not None
    assert ended_at is not None
    assert began <= started_at + timedelta(milliseconds=1)
    assert started_at < ended_at <= ended
    assert times.seconds == pytest.approx((ended_at - started_at).total_seconds(), abs=0.002)
    assert (times.images, times.rows, times.failed) == (len(PHOTOS), len(PHOTOS) + 1, 1)
    assert (times.attempt, times.device, times.gpus, times.all_gpu_seconds) == (4, "cpu", 0, 0)
    assert times.earlier == ()
    assert {"start"} < times.waited_seconds.keys() <= {"start", "fetch", "decode", "loop"}
    assert 0 < sum(times.waited_seconds.values()) + times.encoded_seconds <= times.seconds
    assert times.bytes_fetched == sum(photo.stat().st_size for photo in PHOTOS)


def test_nobody_need_tell_the_number_of_the_attempt_and_pictures_can_be_turned_off(tmp_path: Path) -> None:
    header = computed(tmp_path, sample_pictures=False)
    assert times_of(header).attempt is None
    assert header.pictures == ()


@pytest.mark.slow
def test_a_run_of_one_chunk_has_pictures_of_many_of_its_images_and_the_same_vectors(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    header = computed(tmp_path / "with")
    urls = [picture.url for picture in header.pictures]
    assert len(urls) > 20
    assert urls == sorted(set(urls))
    assert set(urls) <= set(map(str, PHOTOS))
    for picture in header.pictures:
        assert len(picture.jpeg) <= MAX_PICTURE_BYTES
        with Image.open(io.BytesIO(picture.jpeg)) as opened:
            assert (opened.format, opened.size) == ("JPEG", (32, 32)), "the model's squares have 32 pixels"
            assert np.asarray(opened).std() > 5
    computed(tmp_path / "without", sample_pictures=False)
    one, other = read_chunk(tmp_path / "with" / "run"), read_chunk(tmp_path / "without" / "run")
    assert one.urls == other.urls
    assert one.embeddings.tobytes() == other.embeddings.tobytes()


def test_a_chunk_of_a_run_with_many_has_a_picture_of_its_first_image(tmp_path: Path) -> None:
    header = computed(tmp_path, index=1, chunk_count=26)
    urls = read_chunk(tmp_path / "run", 1).urls
    assert [picture.url for picture in header.pictures] == urls[:1]
