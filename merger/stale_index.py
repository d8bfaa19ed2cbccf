"""The index of the result that a merge replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.logs import log
from common.run.keys import INDEX_KEY

if TYPE_CHECKING:
    from common.store.contract import Store


def delete_stale_index(store: Store) -> None:
    """Delete the index beside the result, if there is one.

    A search backend loads whatever index lies beside the result, so no result may be published beside the index of
    another one. Call it right before the result is published; and again before the summary is written, because an index
    program may have published an index of the earlier result meanwhile. It begins no other one before the summary is
    there.
    """
    if store.stat(INDEX_KEY) is not None:
        store.delete([INDEX_KEY])
        log.info("stale_index_deleted", object=store.location(INDEX_KEY))
