"""Whether a run has an index, and whether it belongs to its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.run.keys import INDEX_KEY

if TYPE_CHECKING:
    from common.run.summary import IndexSummary, Summary
    from common.store.contract import ObjectStat, Store


class CurrentIndex(NamedTuple):
    stat: ObjectStat
    summary: IndexSummary


def find_current_index(store: Store, summary: Summary) -> CurrentIndex | str:
    """Return the index that belongs to the result of this summary, or one clause that says why there is none.

    The object's size is compared, and not its bytes.
    """
    said = summary.index
    if said is None:
        return "it has no index"
    if not summary.has_current_index:
        return "its index is of an earlier result"
    stat = store.stat(INDEX_KEY)
    if stat is None:
        return f"{INDEX_KEY} is absent"
    if stat.size != said.bytes:
        return f"{INDEX_KEY} has {stat.size} bytes, and the index that was published has {said.bytes}"
    return CurrentIndex(stat, said)
