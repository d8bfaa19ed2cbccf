"""The removal of chunk files and leftovers from the store, once the run is finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import StoreAccessDenied
from common.logs import log
from common.run.keys import (
    CHECKPOINTS_PREFIX,
    CHUNKS_PREFIX,
    EARLIER_RESULT_KEY,
    FAILURES_KEY,
    INDEX_KEY,
    REPORT_KEY,
    RESULT_KEY,
    SUMMARY_KEY,
    checkpoint_index,
    chunk_failures_index,
    chunk_failures_key,
    chunk_index,
    chunk_key,
)

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from common.store.contract import ObjectStat, Store

LOOKED_FOR = 1000
"""The largest number of chunk files that are looked for one by one where the list does not show them."""


def clear_up(
    store: Store,
    *,
    chunk_count: int,
    merged_chunks: Sequence[ObjectStat],
    keep_chunks: bool,
    earlier: ObjectStat | None,
) -> None:
    """Remove what killed programs left behind and, unless `keep_chunks`, what the result makes superfluous.

    That is the chunk files `merged_chunks`, whose rows the result holds, and the lists of failed images and checkpoints
    that attempts at these chunks have left. `keep_chunks` must be true for a result that lacks chunks: their lists say
    why, and a rerun goes on from their checkpoints. The checkpoints of `merged_chunks` are removed in any case.
    `earlier` is the copy of the earlier result. An object that another program has replaced stays.

    Call it only for a finished run: before that, an upload of the result may belong to a merge that is still alive.
    """
    leftovers = store.abort_assemblies(RESULT_KEY) + store.abort_assemblies(EARLIER_RESULT_KEY)
    of_chunks = [name(index) for name in (chunk_key, chunk_failures_key) for index in range(chunk_count)]
    of_run = [RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY, INDEX_KEY, EARLIER_RESULT_KEY]
    leftovers += store.clear_up([*of_run, *of_chunks])
    leftovers += store.discard_unfinished(CHECKPOINTS_PREFIX)
    if leftovers:
        log.info("cleared_up", leftovers=leftovers)
    indexes = {index for stat in merged_chunks if (index := chunk_index(stat.key)) is not None}
    _delete_checkpoints(store, indexes if keep_chunks else None)
    if not keep_chunks:
        store.delete(_unchanged(store, merged_chunks))
        # Listed after the deletion, so that the list is short.
        store.delete([stat.key for stat in store.list(CHUNKS_PREFIX) if chunk_failures_index(stat.key) is not None])
    # Last: as long as it is there, the next merge can tell what this one has merged.
    if earlier is not None and store.stat(EARLIER_RESULT_KEY) == earlier:
        _delete_copy(store, may_stay=keep_chunks)


def _unchanged(store: Store, merged: Sequence[ObjectStat]) -> Sequence[str]:
    """Return the keys of those objects that are still what was merged: a top-up may have written a chunk anew."""
    listed = {stat.key: stat for stat in store.list(CHUNKS_PREFIX)}
    # The list may be a moment behind.
    unlisted = [stat for stat in merged if listed.get(stat.key) != stat]
    current = {stat.key: store.stat(stat.key) for stat in unlisted} if len(unlisted) <= LOOKED_FOR else {}
    return [stat.key for stat in merged if stat in (listed.get(stat.key), current.get(stat.key))]


def _delete_copy(store: Store, *, may_stay: bool) -> None:
    try:
        store.delete([EARLIER_RESULT_KEY])
    except StoreAccessDenied as error:
        # Whoever keeps the chunks need not be able to delete.
        if not may_stay:
            raise
        log.warning("leftovers_stay", objects=1, error=str(error))


def _delete_checkpoints(store: Store, indexes: Set[int] | None) -> None:
    """Delete the checkpoints of these chunks, or of all chunks."""
    found = ((checkpoint_index(stat.key), stat.key) for stat in store.list(CHECKPOINTS_PREFIX))
    left = [key for index, key in found if index is not None and (indexes is None or index in indexes)]
    try:
        if left:
            store.delete(left)
    except StoreAccessDenied as error:  # with keep_chunks, a merge needs no permission to delete
        log.warning("checkpoints_stay", checkpoints=len(left), error=str(error))
