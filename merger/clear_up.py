"""The removal of chunk files and leftovers from the store, once the run is finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.logs import log
from common.run.keys import (
    CHUNKS_PREFIX,
    FAILURES_KEY,
    RESULT_KEY,
    SUMMARY_KEY,
    chunk_failures_index,
    chunk_failures_key,
    chunk_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.store.contract import Store


def clear_up(store: Store, *, chunk_count: int, merged_chunks: Iterable[int], keep_chunks: bool) -> None:
    """Remove what killed programs left behind and, unless `keep_chunks`, what the result makes superfluous.

    That is the chunk files of `merged_chunks`, which the result holds, and the lists of failed images that attempts at
    these chunks have left. `keep_chunks` must be true for a result that lacks chunks: their lists say why.

    Call it only for a finished run: before that, an upload of the result may belong to a merge that is still alive.
    """
    leftovers = store.abort_assemblies(RESULT_KEY)
    of_chunks = [name(index) for name in (chunk_key, chunk_failures_key) for index in range(chunk_count)]
    leftovers += store.clear_up([RESULT_KEY, FAILURES_KEY, SUMMARY_KEY, *of_chunks])
    if leftovers:
        log.info("cleared_up", leftovers=leftovers)
    if keep_chunks:
        return
    store.delete(chunk_key(index) for index in merged_chunks)
    # Listed after the deletion, so that the list is short.
    store.delete([stat.key for stat in store.list(CHUNKS_PREFIX) if chunk_failures_index(stat.key) is not None])
