"""How far a run is, as its store tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from common.keys import CHUNKS_PREFIX, RESULT_KEY, SUMMARY_KEY, chunk_index

if TYPE_CHECKING:
    from common.store import Store


class Summary(BaseModel):
    """What summary.json says that is of use here."""

    rows_requested: int
    rows_embedded: int
    rows_failed: int
    chunks_missing: str
    """Chunks that a partial merge went without."""
    result_bytes: int
    dimensions: int


def read_summary(store: Store) -> Summary | None:
    """Return the run's summary, None where there is none that can be read."""
    if store.stat(SUMMARY_KEY) is None:
        return None
    try:
        return Summary.model_validate_json(store.read(SUMMARY_KEY))
    except ValidationError:
        return None


def find_missing(store: Store, chunk_count: int) -> set[int]:
    """Return the chunks that are neither in the store nor in a finished result."""
    there = {chunk_index(stat.key) for stat in store.list(CHUNKS_PREFIX)}
    missing = set(range(chunk_count)) - there
    # A merge deletes the chunks of a finished result. One that went without some keeps all there are.
    if missing and store.stat(RESULT_KEY) is not None:
        summary = read_summary(store)
        if summary is not None and not summary.chunks_missing:
            return set()
    return missing
