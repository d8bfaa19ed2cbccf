"""When a run is finished: its result is in the store, and a summary that belongs to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from common.format.chunk_file import read_provenance
from common.format.hdf5 import open_hdf5
from common.indexes import parse_indexes
from common.run.keys import RESULT_KEY, SUMMARY_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.format.provenance import Provenance
    from common.store.contract import ObjectStat, Store


class FinishedRun(NamedTuple):
    """What a finished merge says of itself."""

    result: ObjectStat
    provenance: Provenance
    embedded: int
    failed: int
    missing: list[int]
    """Chunks that are not in the result."""


def find_finished(store: Store) -> FinishedRun | None:
    """Return the finished merge in the store, None unless there are a result and the summary that belongs to it.

    The result's version is not compared: two pods that merge the same chunks write the same bytes, and the one that
    publishes later must not make the other's summary a lie.
    """
    stat = store.stat(SUMMARY_KEY)
    result = store.stat(RESULT_KEY)
    if stat is None or result is None:
        return None
    try:
        summary = json.loads(store.read(SUMMARY_KEY))
        with store.open(RESULT_KEY, result.size) as opened, open_hdf5(opened, name=store.location(RESULT_KEY)) as file:
            provenance = read_provenance(file)
            said = described(file.attrs, result.size)
            embedded, failed = int(file.attrs["rows_embedded"]), int(file.attrs["rows_failed"])
        if {name: summary[name] for name in said} != said:
            return None
        return FinishedRun(result, provenance, embedded, failed, parse_indexes(said["chunks_missing"]))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError):
        return None  # not what this program writes: merging again replaces it


def described(attributes: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return what the summary and the result, of these attributes, both say."""
    return {
        "fingerprint": str(attributes["fingerprint"]),
        "rows_requested": int(attributes["rows_requested"]),
        "rows_embedded": int(attributes["rows_embedded"]),
        "rows_failed": int(attributes["rows_failed"]),
        "chunks_missing": str(attributes["chunks_missing"]),
        "result_bytes": size,
    }
