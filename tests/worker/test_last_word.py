"""The last word of a worker, for people and for `embedder status`."""

from __future__ import annotations

from worker.chunk_job.command import last_word
from worker.chunk_job.outcome import AlreadyMerged, AlreadyStored, NothingToTopUp, Stored, ToppedUp


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
    finished = last_word(AlreadyStored(chunk=7, location="out/7.h5", embedded=5, failed=3, deferred=2))
    assert finished.message == "chunk 7 is in the store already: out/7.h5, 5 images embedded, 3 failed"
    assert finished.counts == {"images": 8, "of": 8, "failed": 3, "deferred": 2}


def test_a_merged_chunk_is_reported_without_counts() -> None:
    finished = last_word(AlreadyMerged(chunk=7, result="out/Images_Embedded.h5"))
    assert finished.message == "this run is finished: out/Images_Embedded.h5 holds chunk 7"
    assert finished.counts == {}


def test_a_topped_up_chunk_is_reported_with_what_became_of_the_rows_that_were_computed_again() -> None:
    stored = Stored(chunk=7, location="out/7.h5", size=99, embedded=9, failed=3, failures_by_reason={"timeout": 3})
    finished = last_word(ToppedUp(stored=stored, computed=5, failed_by_reason={"timeout": 2}))
    assert finished.message == (
        "5 images were computed again, 3 of them are embedded now, 2 failed once more, timeout 2; "
        "chunk 7 is in the store: out/7.h5, 99 bytes, 9 images embedded, 3 failed, timeout 3"
    )
    assert finished.counts == {"images": 12, "of": 12, "failed": 3, "deferred": 0, "computed": 5, "gained": 3}


def test_a_chunk_without_rows_to_compute_again_is_reported_as_one_that_stays() -> None:
    finished = last_word(NothingToTopUp(chunk=7, location="out/7.h5", embedded=5, failed=3, deferred=2))
    assert finished.message == (
        "nothing to compute again in chunk 7: none of its failed images has a reason of EMBEDDER_TOP_UP_REASONS; "
        "out/7.h5 stays, 5 images embedded, 3 failed"
    )
    assert finished.counts == {"images": 8, "of": 8, "failed": 3, "deferred": 2}
