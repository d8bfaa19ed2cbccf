"""The check that `helm test` runs: the result is what its summary says, or the run is not finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import ChunkInvalid, ChunksMissing, RunUnfinished
from common.format.hdf5 import READ_ERRORS, open_hdf5
from common.format.result_file import read_result
from common.format.rows import check_norms
from common.indexes import brief_indexes
from common.process.resources import exhausted
from common.run.keys import EARLIER_RESULT_KEY, RESULT_KEY, SUMMARY_KEY
from common.run.state import find_finished, find_missing
from common.run.summary import read_summary

if TYPE_CHECKING:
    from common.run.state import FinishedRun
    from common.run.summary import Summary
    from common.store.contract import Store
    from k8s.gate.settings import GateSettings
    from k8s.gate.watch import WorkerWatch

SAMPLE_ROWS = 100
"""Number of rows, spread over the result, whose norms are checked."""


class SoundResult(NamedTuple):
    """A result that is what its summary says."""

    location: str
    summary: Summary


def report(store: Store, settings: GateSettings, watch: WorkerWatch) -> SoundResult:
    """Return the finished result.

    Raises RunUnfinished (75) while there is no result yet, ChunksMissing (65) when there will be none before chunks are
    computed again, and ChunkInvalid when the result is not what the summary says, or the summary cannot be read.
    """
    finished = _find_result(store)
    if finished is not None:
        _check_rows(store, finished)
        return SoundResult(store.location(RESULT_KEY), finished.summary)
    watch.refresh()
    missing = find_missing(store, settings.chunk_count)
    progress = f"{settings.chunk_count - len(missing)} of {settings.chunk_count} chunks are in the store"
    which = f", and {brief_indexes(missing)} are missing"
    if settings.chunk_count == 1:
        progress, which = f"the chunk of the run is {'not ' if missing else ''}in the store", ""
    if missing and watch.has_ended:
        raise ChunksMissing(f"{progress}, {watch.state}{which}; see embedder status --release {settings.release}")
    state = watch.state if missing else "the merge has not finished"
    raise RunUnfinished(f"there is no result yet: {progress}, {state}")


def _find_result(store: Store) -> FinishedRun | None:
    """Return the finished run, None where the result or the summary is absent.

    Raises ChunkInvalid where both are there and do not make a finished run, unless a merge after a top-up has replaced
    the result and not yet the summary.
    """
    result, summary = store.stat(RESULT_KEY), read_summary(store)
    if result is None or summary is None:
        return None
    if (finished := find_finished(store)) is not None:
        return finished
    if store.stat(EARLIER_RESULT_KEY) is not None:
        return None
    with store.open(RESULT_KEY, result.size) as file:
        header = read_result(file, name=store.location(RESULT_KEY))
    raise ChunkInvalid(
        f"{store.location(RESULT_KEY)} has {result.size} bytes, {header.embedded} of {header.requested} images and the "
        f"fingerprint {header.provenance.fingerprint[:12]}; {store.location(SUMMARY_KEY)} says {summary.result_bytes} "
        f"bytes, {summary.rows_embedded} of {summary.rows_requested} images and the fingerprint "
        f"{summary.fingerprint[:12]}; merge again"
    )


def _check_rows(store: Store, finished: FinishedRun) -> None:
    """Raise ChunkInvalid unless the result holds the rows that its summary counts, and a sample of them has norm 1."""
    name, count = store.location(RESULT_KEY), finished.summary.rows_embedded
    try:
        with store.open(RESULT_KEY, finished.result.size) as opened, open_hdf5(opened, name=name) as file:
            urls, embeddings = file["urls"], file["embeddings"]
            shapes = (urls.shape, embeddings.shape)
            rows = np.unique(np.linspace(0, max(0, len(urls) - 1), SAMPLE_ROWS, dtype=np.int64))
            sample = np.stack([embeddings[row] for row in rows]) if len(urls) else None  # (rows, dimensions)
    except READ_ERRORS as error:
        raise exhausted(error) or ChunkInvalid(f"{name} cannot be read: {error}; merge again") from error
    if shapes[0] != (count,) or shapes[1][:-1] != shapes[0]:
        raise ChunkInvalid(f"{name} has the shapes {shapes}, its summary says {count} rows; merge again")
    if sample is not None:
        check_norms(sample, name=name)
