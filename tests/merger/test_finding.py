"""Findings: which of them are equal, and the errors that they end a merge with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.errors import ChunkInvalid, ChunksMissing, FingerprintMismatch
from merger.finding import (
    BadChunks,
    Fault,
    Finding,
    MergeRefused,
    MissingChunks,
    OtherChunkCount,
    OtherRun,
    Problem,
    check_same_run,
    error_of,
)
from tests.merger.runs import provenance

if TYPE_CHECKING:
    from common.errors import EmbedderError

DAMAGED = Problem(3, Fault.ROWS, ("urls",), message="chunk 3: damaged urls")


def test_findings_are_equal_whatever_their_messages_say() -> None:
    assert BadChunks((DAMAGED,), 9) == BadChunks((Problem(3, Fault.ROWS, ("urls",), message="other words"),), 9)
    assert MissingChunks((1,), 9, ("run/chunks/failures_1.csv",)) == MissingChunks((1,), 9)
    assert OtherRun("run", "a", "b", "one message") == OtherRun("run", "a", "b", "another message")


@pytest.mark.parametrize(
    "other",
    [
        Problem(4, Fault.ROWS, ("urls",), message=DAMAGED.message),
        Problem(3, Fault.PASSING_ROWS, ("urls",), message=DAMAGED.message),
        Problem(3, Fault.ROWS, ("urls", "ids"), message=DAMAGED.message),
    ],
    ids=["another chunk", "another fault", "more columns"],
)
def test_problems_that_differ_in_chunk_fault_or_columns_are_not_equal(other: Problem) -> None:
    assert len({BadChunks((DAMAGED,), 9), BadChunks((other,), 9), BadChunks((DAMAGED, other), 9)}) == 3


@pytest.mark.parametrize(
    ("finding", "error", "message"),
    [
        (
            BadChunks((DAMAGED,), 9),
            ChunkInvalid,
            "1 chunk file cannot be merged: chunk 3: damaged urls. Delete it, run the worker for its index",
        ),
        (BadChunks((DAMAGED, DAMAGED), 9), ChunkInvalid, "2 chunk files cannot be merged: chunk 3: "),
        (MissingChunks((1, 2, 3), 3), ChunksMissing, "3 of 3 chunks are missing: 1-3; run the worker"),
        (OtherRun("file", "a", "b", "file differs"), FingerprintMismatch, "file differs"),
        (OtherChunkCount("file", 3, 4), FingerprintMismatch, "file is of a run of 4 chunks, EMBEDDER_CHUNK_COUNT is 3"),
    ],
)
def test_each_finding_ends_the_merge_with_its_error(finding: Finding, error: type[EmbedderError], message: str) -> None:
    found = error_of(finding)
    assert type(found) is error
    assert str(found).startswith(message)


def test_a_run_of_one_chunk_is_not_told_of_indexes_and_of_other_chunks() -> None:
    missing = str(error_of(MissingChunks((0,), 1, ("run/chunks/failures_0.csv",))))
    assert missing == (
        "the run's chunk is not in the store (failed images are listed in run/chunks/failures_0.csv); run the worker, "
        "then merge again"
    )
    damaged = str(error_of(BadChunks((DAMAGED,), 1)))
    assert damaged == (
        "the run's chunk file cannot be merged: chunk 3: damaged urls. Delete it, run the worker, then merge again"
    )


def test_missing_chunks_name_the_lists_of_their_failed_images() -> None:
    lists = tuple(f"run/chunks/failures_{index}.csv" for index in (1, 2))
    assert "missing: 0-2 (failed images are listed in run/chunks/failures_1.csv and 1 more); run" in str(
        error_of(MissingChunks((0, 1, 2), 3, lists))
    )


def test_a_partial_merge_is_suggested_only_where_some_chunk_exists() -> None:
    assert "ON_MISSING_CHUNKS=partial" not in str(error_of(MissingChunks((0, 1), 2)))
    assert "ON_MISSING_CHUNKS=partial" in str(error_of(MissingChunks((1,), 2)))


def test_a_file_of_another_run_is_a_finding_with_both_fingerprints() -> None:
    one, other = provenance(2), provenance(2, dtype="float16")
    check_same_run(one, provenance(2, model_revision="another name of the same weights"), location="file")
    with pytest.raises(MergeRefused) as refused:
        check_same_run(one, other, location="file")
    finding = refused.value.finding
    assert finding == OtherRun("file", one.fingerprint, other.fingerprint, "")
    assert "file was made with dtype float16" in str(error_of(finding))
