"""The removal of chunk files and leftovers from the store, once the run is finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import StoreAccessDenied
from common.logs import log
from common.run.keys import (
    CHECKPOINTS_PREFIX,
    CHUNKS_PREFIX,
    FAILURES_KEY,
    RESULT_KEY,
    SUMMARY_KEY,
    checkpoint_index,
    chunk_failures_index,
    chunk_failures_key,
    chunk_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from common.store.contract import Store


def clear_up(store: Store, *, chunk_count: int, merged_chunks: Iterable[int], keep_chunks: bool) -> None:
    """Remove what killed programs left behind and, unless `keep_chunks`, what the result makes superfluous.

    That is the chunk files of `merged_chunks`, which the result holds, and the lists of failed images and checkpoints
    that attempts at these chunks have left. `keep_chunks` must be true for a result that lacks chunks: their lists say
    why, and a rerun goes on from their checkpoints. The checkpoints of `merged_chunks` are removed in any case.

    Call it only for a finished run: before that, an upload of the result may belong to a merge that is still alive.
    """
    leftovers = store.abort_assemblies(RESULT_KEY)
    of_chunks = [name(index) for name in (chunk_key, chunk_failures_key) for index in range(chunk_count)]
    leftovers += store.clear_up([RESULT_KEY, FAILURES_KEY, SUMMARY_KEY, *of_chunks])
    leftovers += store.discard_unfinished(CHECKPOINTS_PREFIX)
    if leftovers:
        log.info("cleared_up", leftovers=leftovers)
    merged = set(merged_chunks)
    _delete_checkpoints(store, merged if keep_chunks else None)
    if keep_chunks:
        return
    store.delete(chunk_key(index) for index in merged)
    # Listed after the deletion, so that the list is short.
    store.delete([stat.key for stat in store.list(CHUNKS_PREFIX) if chunk_failures_index(stat.key) is not None])


def _delete_checkpoints(store: Store, indexes: Set[int] | None) -> None:
    """Delete the checkpoints of these chunks, or of all chunks."""
    found = ((checkpoint_index(stat.key), stat.key) for stat in store.list(CHECKPOINTS_PREFIX))
    left = [key for index, key in found if index is not None and (indexes is None or index in indexes)]
    try:
        if left:
            store.delete(left)
    except StoreAccessDenied as error:  # with keep_chunks, a merge needs no permission to delete
        log.warning("checkpoints_stay", checkpoints=len(left), error=str(error))
