"""How far a run is, as its store tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ChunkInvalid
from common.run.keys import CHUNKS_PREFIX, RESULT_KEY, chunk_index
from common.run.summary import read_summary

if TYPE_CHECKING:
    from common.store.contract import Store


def find_missing(store: Store, chunk_count: int) -> set[int]:
    """Return the chunks that are neither in the store nor in a finished result."""
    there = {chunk_index(stat.key) for stat in store.list(CHUNKS_PREFIX)}
    missing = set(range(chunk_count)) - there
    # A merge deletes the chunks of a finished result. One that went without some keeps all there are.
    return set() if missing and _is_complete(store) else missing


def _is_complete(store: Store) -> bool:
    if store.stat(RESULT_KEY) is None:
        return False
    try:
        summary = read_summary(store)
    except ChunkInvalid:
        return False  # not what a merge writes: merging again replaces it
    return summary is not None and not summary.chunks_missing
