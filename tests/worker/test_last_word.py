"""The last word of a worker, for people and for `embedder status`."""

from __future__ import annotations

from worker.chunk_job.command import last_word
from worker.chunk_job.outcome import AlreadyMerged, AlreadyStored, Stored


def test_a_stored_chunk_is_reported_with_its_failures_by_reason() -> None:
    stored = Stored(
        chunk=7,
        location="s3://b/7.h5",
        size=99,
        embedded=5,
        failed=3,
        failures_by_reason={"not_found": 2, "timeout": 1},
    )
    finished = last_word(stored)
    assert finished.message == (
        "chunk 7 is in the store: s3://b/7.h5, 99 bytes, 5 images embedded, 3 failed, not_found 2, timeout 1"
    )
    assert finished.counts == {"images": 8, "of": 8, "failed": 3, "deferred": 0}


def test_the_last_word_says_how_many_images_are_deferred_and_what_fetches_them() -> None:
    stored = Stored(
        chunk=7,
        location="s3://b/7.h5",
        size=99,
        embedded=5,
        failed=3,
        deferred=2,
        failures_by_reason={"deferred": 2, "timeout": 1},
    )
    finished = last_word(stored)
    assert finished.message.endswith(
        "3 failed, deferred 2, timeout 1; 2 are deferred, because their sites serve slowly: fetch them with a top-up"
    )
    assert finished.counts["deferred"] == 2


def test_a_chunk_that_was_in_the_store_before_is_reported_with_the_same_counts() -> None:
    finished = last_word(AlreadyStored(chunk=7, location="out/7.h5", embedded=5, failed=3))
    assert finished.message == "chunk 7 is in the store already: out/7.h5, 5 images embedded, 3 failed"
    assert finished.counts == {"images": 8, "of": 8, "failed": 3}


def test_a_merged_chunk_is_reported_without_counts() -> None:
    finished = last_word(AlreadyMerged(chunk=7, result="out/Images_Embedded.h5"))
    assert finished.message == "this run is finished: out/Images_Embedded.h5 holds chunk 7"
    assert finished.counts == {}
