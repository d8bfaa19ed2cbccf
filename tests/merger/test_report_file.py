"""What a merge collects from its chunks for summary.json and for report.html."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from common.errors import SettingsError
from common.format.chunk_times import Attempt, ChunkTimes, SamplePicture
from common.run.keys import REPORT_KEY, SUMMARY_KEY
from common.run.summary import MOST_CHUNK_TIMES, read_summary
from merger.chunk_times import collect_times
from merger.chunks import MOST_PICTURES, Inputs, StoredChunk, is_picked, list_chunks, read_headers
from merger.command import run_merger
from merger.merge import merge
from merger.outcome import AlreadyFinished
from merger.progress import Traffic
from results.report.sample_picture import read_pictures
from tests.merger.runs import make_chunk, put_chunk, settings_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from common.format.chunk_file import Chunk
    from common.run.summary import Summary
    from common.store.contract import Store

JPEG = b"\xff\xd8\xff picture of "

EACH_PICTURE = [(0, b"0"), (1, b"1"), (1, b"new"), (2, b"2")]


def times(index: int, *, start: int, seconds: float, gpus: int = 1, earlier: Sequence[Attempt] = ()) -> ChunkTimes:
    """Return the times of an attempt from `start` seconds after midnight."""
    return ChunkTimes(
        index=index,
        started_at=_time(start),
        ended_at=_time(start + seconds),
        images=5,
        gpus=gpus,
        seconds=seconds,
        waited_seconds={"fetch": seconds / 2},
        earlier=tuple(earlier),
    )


def _time(second: float) -> str:
    return f"2026-11-29T{int(second) // 3600:02}:{int(second) // 60 % 60:02}:{int(second) % 60:02}.000+00:00"


def timed_chunk(index: int, chunk_count: int, *, failed: int = 0, **of_times: float) -> Chunk:
    chunk = make_chunk(index, 5, chunk_count=chunk_count, failed=failed)
    return replace(
        chunk,
        times=times(index, **of_times),  # type: ignore[arg-type]
        pictures=[SamplePicture(f"https://photos.example/{index}/<0>", JPEG + b"%d" % index)],
    )


def summary_of(store: Store) -> Summary:
    summary = read_summary(store)
    assert summary is not None
    return summary


def pictures_of(store: Store) -> list[tuple[int, bytes]]:
    return [(picture.chunk, picture.jpeg) for picture in read_pictures(store.read(REPORT_KEY).decode())]


def test_a_merge_sums_the_gpu_hours_and_computes_their_cost(store: Store) -> None:
    before = Attempt(started_at=_time(0), ended_at=_time(60), gpus=2, seconds=60)
    put_chunk(
        store,
        replace(timed_chunk(0, 2, start=100, seconds=100), times=times(0, start=100, seconds=100, earlier=[before])),
    )
    put_chunk(store, timed_chunk(1, 2, start=150, seconds=140))
    merge(store, settings_for(store, 2, gpu_hour_price=3.6))
    summary = summary_of(store)
    assert [each.index for each in summary.chunk_times] == [0, 1]
    assert summary.gpu_hours == pytest.approx((2 * 60 + 100 + 140) / 3600, abs=1e-5)
    assert summary.cost == pytest.approx(0.36, abs=1e-4)
    assert summary.cost_per_million == pytest.approx(0.36 / 10 * 1e6, rel=1e-4)
    assert summary.computing_seconds == pytest.approx(60 + 190)
    assert summary.images_per_second == pytest.approx(10 / 250)


def test_a_report_has_the_pictures_of_the_chunks_and_escapes_their_urls(store: Store) -> None:
    for index in range(3):
        put_chunk(store, timed_chunk(index, 3, start=0, seconds=10))
    merge(store, settings_for(store, 3))
    assert pictures_of(store) == [(index, JPEG + b"%d" % index) for index in range(3)]
    page = store.read(REPORT_KEY).decode()
    assert "/<0>" not in page
    assert page.lower().startswith("<!doctype html>")


def test_chunk_files_of_an_earlier_version_are_merged_without_times(store: Store) -> None:
    put_chunk(store, make_chunk(0, 3, chunk_count=2))
    put_chunk(store, timed_chunk(1, 2, start=0, seconds=10, gpus=0))
    merge(store, settings_for(store, 2, gpu_hour_price=2.0))
    summary = summary_of(store)
    assert [each.index for each in summary.chunk_times] == [1]
    assert (summary.gpu_hours, summary.cost, summary.cost_per_million) == (0, None, None)
    assert pictures_of(store) == [(1, JPEG + b"1")]


def test_a_merge_of_a_finished_run_writes_no_other_report(store: Store) -> None:
    put_chunk(store, timed_chunk(0, 1, start=0, seconds=10))
    merge(store, settings_for(store, 1))
    store.delete([REPORT_KEY])
    assert isinstance(merge(store, settings_for(store, 1)), AlreadyFinished)
    assert store.stat(REPORT_KEY) is None


def test_after_a_top_up_no_gpu_hour_and_no_picture_is_lost(store: Store) -> None:
    for index in range(3):
        put_chunk(store, timed_chunk(index, 3, failed=2, start=0, seconds=100))
    merge(store, settings_for(store, 3))
    topped_up = replace(
        timed_chunk(1, 3, failed=1, start=1000, seconds=20),
        pictures=[SamplePicture("https://photos.example/new", JPEG + b"new")],
    )
    put_chunk(store, topped_up)
    merge(store, settings_for(store, 3))
    summary = summary_of(store)
    assert summary.chunks_topped_up == "1"
    assert summary.gpu_hours == pytest.approx(320 / 3600, abs=1e-5)
    assert [len(each.attempts) for each in summary.chunk_times] == [1, 2, 1]
    assert summary.computing_seconds == pytest.approx(120)
    assert sorted(pictures_of(store)) == [(chunk, JPEG + name) for chunk, name in EACH_PICTURE]


def test_a_chunk_file_that_is_kept_beside_the_result_counts_once(store: Store) -> None:
    for index in range(2):
        put_chunk(store, timed_chunk(index, 2, failed=2, start=0, seconds=100))
    merge(store, settings_for(store, 2, keep_chunks=True))
    first = timed_chunk(0, 2, start=0, seconds=100).times
    assert first is not None
    topped_up = times(0, start=1000, seconds=20, earlier=[first])
    put_chunk(store, replace(timed_chunk(0, 2, failed=1, start=1000, seconds=20), times=topped_up))
    merge(store, settings_for(store, 2, keep_chunks=True))
    assert summary_of(store).gpu_hours == pytest.approx(220 / 3600, abs=1e-5)


def test_the_summary_of_another_run_adds_nothing(store: Store) -> None:
    put_chunk(store, timed_chunk(0, 1, start=0, seconds=100))
    merge(store, settings_for(store, 1, keep_chunks=True))
    other = store.read(SUMMARY_KEY)
    put_chunk(store, replace(make_chunk(0, 5, chunk_count=1, weights="other"), times=times(0, start=500, seconds=10)))
    store.delete(["Images_Embedded.h5"])
    store.put_bytes(SUMMARY_KEY, other)
    merge(store, settings_for(store, 1))
    summary = summary_of(store)
    assert summary.gpu_hours == pytest.approx(10 / 3600, abs=1e-5)
    assert pictures_of(store) == []


def test_each_chunk_takes_one_line_of_the_summary(store: Store) -> None:
    for index in range(4):
        put_chunk(store, timed_chunk(index, 4, start=0, seconds=10))
    merge(store, settings_for(store, 4))
    lines = store.read(SUMMARY_KEY).decode().splitlines()
    assert sum('"started_at"' in line for line in lines) == 4


def test_of_very_many_chunks_some_keep_their_times_and_all_count(store: Store) -> None:
    count = 3 * MOST_CHUNK_TIMES
    for index in range(4):
        put_chunk(store, timed_chunk(index, count, start=1000 * index, seconds=100))
    chunks, problems = read_headers(store, list_chunks(store), concurrency=2, traffic=Traffic())
    assert not problems
    inputs = Inputs(chunks, [], chunks[0].header.provenance)
    found = collect_times(inputs, None)
    assert [each.index for each in found.chunks] == [0, 3]
    assert found.gpu_seconds == pytest.approx(400)
    assert found.computing_seconds == pytest.approx(400)
    assert [bool(chunk.header.pictures) for chunk in chunks] == [True, False, False, False]


def test_picked_chunks_are_spread_evenly_and_not_too_many() -> None:
    for chunk_count in (1, 299, 300, 301, 900, 100_000):
        picked = [index for index in range(chunk_count) if is_picked(index, of=chunk_count, at_most=MOST_PICTURES)]
        assert MOST_PICTURES / 2 <= len(picked) <= MOST_PICTURES or len(picked) == chunk_count
    assert StoredChunk._field_defaults["attempts"] == ()


def test_the_last_word_of_a_merge_tells_what_the_run_took(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_chunk(store, timed_chunk(0, 1, start=0, seconds=3600))
    for name, value in {"RUN_URI": store.uri, "CHUNK_COUNT": "1", "GPU_HOUR_PRICE": "0.5"}.items():
        monkeypatch.setenv(f"EMBEDDER_{name}", value)
    merged, again = run_merger(), run_merger()
    assert merged.message.endswith(
        "0.00139 images/s, 1.00 GPU hours, cost 0.50 at 0.5 an hour, 100,000.00 for a million images"
    )
    assert merged.counts == {"embedded": 5, "computing_seconds": 3600, "gpu_seconds": 3600}
    assert again.message.startswith("this run is finished: ")
    assert again.counts == merged.counts


@pytest.mark.parametrize("price", ["-1", "nan", "inf", "free"])
def test_a_price_that_is_no_amount_is_refused(price: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RUN_URI": str(tmp_path), "CHUNK_COUNT": "1", "GPU_HOUR_PRICE": price}.items():
        monkeypatch.setenv(f"EMBEDDER_{name}", value)
    with pytest.raises(SettingsError, match="EMBEDDER_GPU_HOUR_PRICE is"):
        run_merger()
