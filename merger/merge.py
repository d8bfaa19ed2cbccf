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
from common.logs import CHUNK_REFUSED, log
from common.process import program
from common.run.keys import EARLIER_RESULT_KEY, RESULT_KEY
from common.run.state import FinishedRun, find_finished
from common.store.contract import AssemblyGone, ObjectExists
from merger.attempt import merge_inputs
from merger.chunks import read_inputs
from merger.clear_up import clear_up
from merger.earlier_result import find_earlier_result
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
from merger.progress import Progress
from merger.sufficient import is_sufficient, look_at_files

if TYPE_CHECKING:
    from common.store.contract import ObjectStat, Store
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
    # What is replaced or deleted at the end is what was there before the chunk files were listed.
    leftover = store.stat(EARLIER_RESULT_KEY)
    finished = find_finished(store)
    result = store.stat(RESULT_KEY) if finished is None else finished.result
    if finished is not None:
        check_chunk_count(settings.chunk_count, finished.provenance.chunk_count, location=store.location(RESULT_KEY))
        if is_sufficient(store, finished, settings):
            return _end_as_finished(store, finished, settings, leftover)
    with Progress(interval_seconds=settings.progress_seconds) as progress:
        program.on_stop(progress.log)
        inputs = read_inputs(
            store,
            chunk_count=settings.chunk_count,
            allow_missing=settings.on_missing_chunks == "partial",
            concurrency=settings.merge_concurrency,
            traffic=progress.traffic,
            find_earlier=lambda without_file: find_earlier_result(store, result, finished, without_file=without_file),
        )
        # If another merge deleted chunk files while they were listed here, it had finished the run before.
        if inputs.missing or inputs.earlier is not None:
            now = find_finished(store)
            if now is not None and now.summary != (finished and finished.summary):
                raise ObjectExists(store.location(RESULT_KEY))
        return Merged(merge_inputs(store, inputs, settings, progress, replacing=result))


def _is_finished(store: Store, settings: MergerSettings) -> bool:
    finished = find_finished(store)
    return finished is not None and is_sufficient(store, finished, settings)


def _end_as_finished(
    store: Store, finished: FinishedRun, settings: MergerSettings, leftover: ObjectStat | None
) -> AlreadyFinished:
    """Clear up what an earlier merge may have left, and return its outcome.

    `leftover` is the copy of an earlier result that was there before the chunk files were listed.

    Raises MergeRefused where a chunk file in the store is of another run.
    """
    superfluous = []
    for chunk in look_at_files(store, finished, settings):
        if chunk.provenance is not None:
            location = store.location(chunk.stat.key)
            check_same_run(finished.provenance, chunk.provenance, location=location)
        if not chunk.is_new:
            superfluous.append(chunk.stat)
    clear_up(
        store,
        chunk_count=settings.chunk_count,
        merged_chunks=superfluous,
        keep_chunks=settings.keep_chunks or not finished.is_complete,
        earlier=leftover,
    )
    return AlreadyFinished(finished.summary)


def _log_refused_chunks(finding: Finding) -> None:
    """Log each bad chunk: `embedder run` reads these lines to learn which chunks to compute again."""
    if isinstance(finding, BadChunks):
        for problem in finding.problems:
            log.warning(CHUNK_REFUSED, chunk=problem.index, message=problem.message)
