"""What `helm test` says: that the result is what its summary says, or how far the run is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.errors import ChunkInvalid, ChunksMissing, RunUnfinished
from common.format.hdf5 import open_hdf5
from common.format.rows import check_norms
from common.run.keys import RESULT_KEY
from common.run.state import find_missing
from common.run.summary import read_summary
from k8s.release import brief_indexes

if TYPE_CHECKING:
    from common.run.summary import Summary
    from common.store.contract import ObjectStat, Store
    from k8s.gate.settings import GateSettings
    from k8s.gate.watch import WorkerWatch

SAMPLE_ROWS = 100
"""Rows whose norms are checked, spread over the result."""


def report(store: Store, settings: GateSettings, watch: WorkerWatch) -> str:
    """Return the sentence on a finished result that is sound.

    Raises RunUnfinished (75) while there is no result, ChunksMissing (65) when there will be none by itself, and
    ChunkInvalid when the result is not what the summary says, or the summary cannot be read.
    """
    stat, summary = store.stat(RESULT_KEY), read_summary(store)
    if stat is not None and summary is not None:
        return _check_result(store, stat, summary)
    watch.refresh()
    missing = find_missing(store, settings.chunk_count)
    far = f"{settings.chunk_count - len(missing)} of {settings.chunk_count} chunks are in the store"
    if missing and watch.has_ended:
        raise ChunksMissing(
            f"{far}, {watch.describe()}, and {brief_indexes(missing)} are missing; see embedder status --release "
            f"{settings.release}"
        )
    state = watch.describe() if missing else "the merge has not finished"
    raise RunUnfinished(f"there is no result yet: {far}, {state}")


def _check_result(store: Store, stat: ObjectStat, summary: Summary) -> str:
    name = store.location(RESULT_KEY)
    try:
        with store.open(RESULT_KEY, stat.size) as opened, open_hdf5(opened, name=name) as file:
            urls, embeddings = file["urls"], file["embeddings"]
            shapes = (urls.shape, embeddings.shape)
            rows = np.unique(np.linspace(0, max(0, len(urls) - 1), SAMPLE_ROWS, dtype=np.int64))
            sample = np.stack([embeddings[row] for row in rows]) if len(urls) else None  # (rows, dimensions)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ChunkInvalid(f"{name} cannot be read: {error}; merge again") from error
    if shapes[0] != (summary.rows_embedded,) or shapes[1][:-1] != shapes[0]:
        raise ChunkInvalid(
            f"{name} has the shapes {shapes}, its summary says {summary.rows_embedded} rows; merge again"
        )
    if sample is not None:
        check_norms(sample, name=name)
    missing = f", without chunks {summary.chunks_missing}" if summary.chunks_missing else ""
    return (
        f"{name} is sound: {summary.rows_embedded} of {summary.rows_requested} images, "
        f"{summary.rows_failed} failed{missing}"
    )
