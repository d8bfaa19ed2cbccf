"""The removal of chunk files and leftovers from the store, once the run is finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.logs import log
from common.run.keys import FAILURES_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.store.contract import Store


def clear_up(store: Store, *, chunk_count: int, merged_chunks: Iterable[int]) -> None:
    """Delete the chunk files of `merged_chunks`, which the result holds, and what killed programs left behind.

    Call it only for a finished run: before that, an upload of the result may belong to a merge that is still alive.
    """
    leftovers = store.abort_assemblies(RESULT_KEY)
    leftovers += store.clear_up([RESULT_KEY, FAILURES_KEY, SUMMARY_KEY, *map(chunk_key, range(chunk_count))])
    if leftovers:
        log.info("cleared_up", leftovers=leftovers)
    store.delete(chunk_key(index) for index in merged_chunks)
