"""The merge: attempts, until one finishes the run, or until two make the same finding.

What follows an attempt that ...

    finishes the run, or finds it finished      exit code 0
    refuses the chunks for the first time       another attempt, at once
    refuses them for the same reason again      exit code 65 or 78
    is disturbed by another merge               another attempt, after a pause
    cannot reach the store                      exit code 75, or another attempt if another merge finished the run

After ATTEMPTS attempts the exit code is 75.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from common.errors import StoreUnavailable
from common.format.chunk_file import ChunkHeader
from common.logs import CHUNK_REFUSED, log
from common.process import program
from common.run.keys import RESULT_KEY
from common.run.state import FinishedRun, find_finished
from common.store.contract import AssemblyGone, ObjectExists
from merger.attempt import merge_inputs
from merger.chunks import list_chunks, read_header_of, read_inputs
from merger.clear_up import clear_up
from merger.finding import (
    BadChunks,
    Finding,
    MergeRefused,
    check_chunk_count,
    check_same_run,
    error_of,
    may_be_true,
)
from merger.outcome import AlreadyFinished, Merged
from merger.progress import Progress, Traffic

if TYPE_CHECKING:
    from common.store.contract import Store
    from merger.settings import MergerSettings

ATTEMPTS = 5
"""Largest number of attempts of one merge."""

DISTURBED_SECONDS = 2
"""Pause in seconds after a disturbed attempt, so that two merges do not keep the same rhythm."""


def merge(store: Store, settings: MergerSettings) -> Merged | AlreadyFinished:
    """Merge the run's chunks, unless the run is finished.

    Raises ChunkInvalid, ChunksMissing or FingerprintMismatch when two attempts have made equal findings, and
    StoreUnavailable when the store does not answer, when no result can be verified, or after ATTEMPTS attempts.
    """
    findings: set[Finding] = set()
    last: Exception | None = None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(store, settings)
        except (AssemblyGone, ObjectExists) as error:
            last = error
            log.warning("merge_disturbed", attempt=attempt, of=ATTEMPTS, error=str(error))
            time.sleep(DISTURBED_SECONDS)
        except MergeRefused as refused:
            _log_refused_chunks(refused.finding)
            if refused.finding in findings and may_be_true(refused.finding):
                raise error_of(refused.finding) from refused
            findings.add(refused.finding)
            last = refused
            log.warning("looking_again", attempt=attempt, of=ATTEMPTS, error=str(refused))
        except StoreUnavailable as error:
            # Another merge may have finished the run and deleted the chunk files that this attempt was reading.
            if attempt == ATTEMPTS or not _is_finished(store, settings):
                raise
            log.warning("merge_overtaken", attempt=attempt, of=ATTEMPTS, error=str(error))
    raise StoreUnavailable(
        f"{ATTEMPTS} attempts to make {store.location(RESULT_KEY)} failed, the last because of: {last}; other "
        "programs write or delete objects of this run at the same time, or the store's answers are wrong"
    ) from last


def _attempt(store: Store, settings: MergerSettings) -> Merged | AlreadyFinished:
    if (finished := _find_sufficient(store, settings)) is not None:
        return _end_as_finished(store, finished, settings)
    with Progress(interval_seconds=settings.progress_seconds) as progress:
        program.on_stop(progress.log)
        inputs = read_inputs(
            store,
            chunk_count=settings.chunk_count,
            allow_missing=settings.on_missing_chunks == "partial",
            concurrency=settings.merge_concurrency,
            traffic=progress.traffic,
        )
        # If another merge deleted chunk files while they were listed here, it had finished the run before.
        if inputs.missing and (finished := _find_sufficient(store, settings)) is not None:
            return _end_as_finished(store, finished, settings)
        return Merged(merge_inputs(store, inputs, settings, progress))


def _find_sufficient(store: Store, settings: MergerSettings) -> FinishedRun | None:
    """Return the finished run, None where there is none or where this merge can add chunks to it.

    Raises MergeRefused where the finished run has another chunk count.
    """
    finished = find_finished(store)
    if finished is None:
        return None
    location = store.location(finished.result.key)
    check_chunk_count(settings.chunk_count, finished.provenance.chunk_count, location=location)
    return finished if _is_sufficient(finished, store, settings) else None


def _is_finished(store: Store, settings: MergerSettings) -> bool:
    finished = find_finished(store)
    return finished is not None and _is_sufficient(finished, store, settings)


def _is_sufficient(finished: FinishedRun, store: Store, settings: MergerSettings) -> bool:
    """Return whether a finished run needs no other merge.

    A complete one needs none. A partial one is sufficient while partial results are allowed and the store has no chunk
    that the result misses.
    """
    if finished.is_complete:
        return True
    if settings.on_missing_chunks == "refuse":
        return False
    return not list_chunks(store).keys() & set(finished.header.missing)


def _end_as_finished(store: Store, finished: FinishedRun, settings: MergerSettings) -> AlreadyFinished:
    """Clear up what an earlier merge may have left, and return its outcome.

    Raises MergeRefused where a chunk file in the store is of another run.
    """
    chunks = list_chunks(store)
    for index, stat in chunks.items():
        try:
            header = read_header_of(store, index, stat, Traffic())
        except StoreUnavailable:
            if store.stat(stat.key) is not None:
                raise
            continue  # it was deleted, and the list still shows it
        # A damaged chunk file is of no use to any run, so it may be deleted.
        if isinstance(header, ChunkHeader):
            check_same_run(finished.provenance, header.provenance, location=store.location(stat.key))
    keep_chunks = settings.keep_chunks or not finished.is_complete
    clear_up(store, chunk_count=settings.chunk_count, merged_chunks=chunks, keep_chunks=keep_chunks)
    return AlreadyFinished(finished.summary)


def _log_refused_chunks(finding: Finding) -> None:
    """Log each bad chunk: `embedder run` reads these lines to learn which chunks to compute again."""
    if isinstance(finding, BadChunks):
        for problem in finding.problems:
            log.warning(CHUNK_REFUSED, chunk=problem.index, message=problem.message)
