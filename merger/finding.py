"""The findings of a merge whose chunks cannot be merged, as values that can be compared.

If a finding is true, it ends the merge's Job for good. But a finding may be wrong: one wrong byte in an answer of the
store looks like a damaged chunk, and a chunk that another merge has just deleted looks like a missing one. So a merge
makes another attempt, and believes a finding that two attempts have made. Messages do not count in the comparison.
What an attempt calls damage, LOOKS reads have all found damaged: a wrong answer passes, and damage stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never

from common.errors import ChunkInvalid, ChunksMissing, FingerprintMismatch
from common.indexes import brief_indexes

if TYPE_CHECKING:
    from common.format.provenance import Provenance

NAMED_PROBLEMS = 20
"""Largest number of bad chunks that one message names. The log names all of them; a termination log holds 4 KiB."""


LOOKS = 3
"""Number of reads that must all find the same header, column or vectors bad before a finding says so."""


class Fault(Enum):
    """What is wrong with a chunk file."""

    HEADER = auto()
    """The header cannot be read, or contradicts itself."""
    INDEX = auto()
    """The header has another index than the file's name."""
    DIMENSIONS = auto()
    """The vectors have other dimensions than those of most chunks."""
    IDS = auto()
    """The chunk has ids and most chunks have none, or the other way round."""
    PASSING_ROWS = auto()
    """Rows differed from what the worker wrote when the merge read them, but the search for damage found nothing. The
    store's answer was wrong, so no number of such findings is believed."""
    ROWS = auto()
    """Rows differ from what the worker wrote, and the search for damage found it."""
    NORMS = auto()
    """Vectors do not have L2 norm 1."""


@dataclass(frozen=True)
class Problem:
    """One chunk file that cannot be merged."""

    index: int
    """Index of the chunk, from the file's name."""
    fault: Fault
    columns: tuple[str, ...] = ()
    """The damaged columns, for Fault.PASSING_ROWS and Fault.ROWS."""
    message: str = field(compare=False, kw_only=True)
    """A sentence that names the file and says what is wrong."""


@dataclass(frozen=True)
class BadChunks:
    """Chunk files that cannot be merged, at least one."""

    problems: tuple[Problem, ...]
    chunk_count: int
    """Number of chunks of the run."""


@dataclass(frozen=True)
class MissingChunks:
    indexes: tuple[int, ...]
    chunk_count: int
    """Number of chunks of the run."""
    explained_by: tuple[str, ...] = field(default=(), compare=False)
    """Full names of the lists of failed images that missing chunks have left in the store."""


@dataclass(frozen=True)
class OtherRun:
    """A file that was made with settings that give other vectors or rows."""

    location: str
    expected_fingerprint: str
    found_fingerprint: str
    message: str = field(compare=False)
    """A sentence that names the file and the settings that differ."""


@dataclass(frozen=True)
class OtherChunkCount:
    """A file of a run that is divided into another number of chunks."""

    location: str
    expected: int
    found: int


@dataclass(frozen=True)
class OtherLedger:
    """A ledger that does not list the failures of chunks whose rows come from the earlier result."""

    location: str
    chunks: tuple[int, ...]
    """The indexes of the chunks."""


@dataclass(frozen=True)
class BadEarlierRows:
    """Rows of an earlier result that are not what the workers wrote."""

    location: str
    chunks: tuple[int, ...]
    """The indexes of the chunks."""
    message: str = field(compare=False)
    """A sentence that says what is wrong."""


Finding = BadChunks | MissingChunks | OtherRun | OtherChunkCount | OtherLedger | BadEarlierRows


def may_be_true(finding: Finding) -> bool:
    """Return whether the finding may end the merge once two attempts have made it."""
    return not isinstance(finding, BadChunks) or all(
        problem.fault is not Fault.PASSING_ROWS for problem in finding.problems
    )


class MergeRefused(Exception):
    """This attempt has found that the chunks cannot be merged."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(error_of(finding)))
        self.finding = finding


def check_same_run(expected: Provenance, found: Provenance, *, location: str) -> None:
    """Raise MergeRefused unless the file at `location`, which `found` was read from, is of the expected run."""
    try:
        expected.check_same(found, name=location)
    except FingerprintMismatch as error:
        raise MergeRefused(OtherRun(location, expected.fingerprint, found.fingerprint, str(error))) from error


def check_chunk_count(expected: int, found: int, *, location: str) -> None:
    """Raise MergeRefused unless the file at `location` is of a run of as many chunks as expected."""
    if found != expected:
        raise MergeRefused(OtherChunkCount(location, expected, found))


def error_of(finding: Finding) -> ChunkInvalid | ChunksMissing | FingerprintMismatch:
    """Return the error that ends the Job when the finding is believed."""
    match finding:
        case BadChunks(problems, chunk_count):
            return ChunkInvalid(_name_problems(problems, chunk_count))
        case MissingChunks():
            return ChunksMissing(_name_missing(finding))
        case OtherRun(message=message):
            return FingerprintMismatch(message)
        case OtherChunkCount(location, expected, found):
            return FingerprintMismatch(
                f"{location} is of a run of {found} chunks, EMBEDDER_CHUNK_COUNT is {expected}; set it to {found}, or "
                "choose another EMBEDDER_RUN_URI"
            )
        case OtherLedger(location, chunks):
            return ChunkInvalid(
                f"{location} does not list the failed images of {_name_chunks(chunks)} as the result counts them; "
                f"{_COMPUTE_AGAIN}"
            )
        case BadEarlierRows(location, chunks, message):
            return ChunkInvalid(f"{location} is damaged in {_name_chunks(chunks)}: {message}; {_COMPUTE_AGAIN}")
        case _:
            assert_never(finding)


_COMPUTE_AGAIN = (
    "delete summary.json, run the worker for these indexes with EMBEDDER_CHUNK_INDEXES, then merge again: the rows of "
    "all other chunks are taken from the result"
)


def _name_chunks(indexes: tuple[int, ...]) -> str:
    return f"chunk{'' if len(indexes) == 1 else 's'} {brief_indexes(indexes)}"


def _name_missing(missing: MissingChunks) -> str:
    indexes, count = missing.indexes, missing.chunk_count
    lists = missing.explained_by
    more = f" and {len(lists) - 1} more" if len(lists) > 1 else ""
    why = f" (failed images are listed in {lists[0]}{more})" if lists else ""
    if count == 1:
        return f"the run's chunk is not in the store{why}; run the worker, then merge again"
    partial = ", or merge the chunks that exist with EMBEDDER_ON_MISSING_CHUNKS=partial"
    return (
        f"{len(indexes)} of {count} chunks are missing: {brief_indexes(indexes)}{why}; run the worker for "
        f"{'it' if len(indexes) == 1 else 'them'} with EMBEDDER_CHUNK_INDEXES set to "
        f"{'this index' if len(indexes) == 1 else 'these indexes'}, then merge again"
        + (partial if len(indexes) < count else "")
    )


def _name_problems(problems: tuple[Problem, ...], chunk_count: int) -> str:
    more = len(problems) - NAMED_PROBLEMS
    named = "; ".join(problem.message for problem in problems[:NAMED_PROBLEMS])
    if chunk_count == 1:
        return f"the run's chunk file cannot be merged: {named}. Delete it, run the worker, then merge again"
    if len(problems) == 1:
        return (
            f"1 chunk file cannot be merged: {named}. Delete it, run the worker for its index with "
            "EMBEDDER_CHUNK_INDEXES, then merge again"
        )
    return (
        f"{len(problems)} chunk files cannot be merged: {named}"
        + (f"; and {more} more" if more > 0 else "")
        + ". Delete these files, run the worker for their indexes with EMBEDDER_CHUNK_INDEXES, then merge again"
    )
