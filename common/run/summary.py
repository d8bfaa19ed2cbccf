"""summary.json of a finished merge, as far as the control side reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from common.errors import ChunkInvalid
from common.run.keys import SUMMARY_KEY

if TYPE_CHECKING:
    from common.store.contract import Store


class RunSummary(BaseModel):
    rows_requested: int
    rows_embedded: int
    rows_failed: int
    failures_by_reason: dict[str, int]
    chunks_missing: str
    """The chunks that a partial merge went without, as in `3,7-9`."""


def read_summary(store: Store) -> RunSummary | None:
    """Return the run's summary, None where there is none. Raises ChunkInvalid when it is not what a merge writes."""
    if store.stat(SUMMARY_KEY) is None:
        return None
    try:
        return RunSummary.model_validate_json(store.read(SUMMARY_KEY))
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ChunkInvalid(f"{store.location(SUMMARY_KEY)} is no summary of a merge: {details}") from error
