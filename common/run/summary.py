"""summary.json: what a merge says about the run it has finished. It is written last."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from common.errors import ChunkInvalid, StoreUnavailable
from common.format.chunk_times import ChunkTimes
from common.format.provenance import Provenance
from common.indexes import parse_indexes
from common.run.keys import SUMMARY_KEY

if TYPE_CHECKING:
    from common.store.contract import ObjectStat, Store

__all__ = [
    "ChunkTimes",
    "IndexSummary",
    "Summary",
    "Verification",
    "read_summary",
    "summary_bytes",
    "write_summary",
]

MOST_CHUNK_TIMES = 5000
"""Largest number of chunks whose times are in summary.json: every worker of a top-up reads it."""


class Verification(BaseModel):
    """How the result was compared with the chunks."""

    model_config = ConfigDict(frozen=True)

    mode: str
    """`sample` or `full`."""
    rows_compared: int


class IndexSummary(BaseModel):
    """The index beside the result, as it was measured before it was published."""

    model_config = ConfigDict(frozen=True)

    of_fingerprint: str
    of_table_digest: str
    """The fingerprint and the table's digest of the result that the index belongs to."""
    rows: int
    bytes: int
    """Size of the index in the store."""
    m: int
    ef_construction: int
    recall_at_10: float
    """Share of the 10 nearest rows, by exact search, that the index finds (0 to 1)."""
    recall_queries: int
    """Number of sampled rows whose neighbours were compared."""
    ef_search: int
    """The value of `ef` with which the recall was measured."""
    recall_at_10_unset_ef: float | None = None
    """The recall of a search backend that sets no `ef`, so that hnswlib uses 10."""
    sha256: str = ""
    """The digest of the index."""
    seconds: float
    built_by: str
    """The version of the program."""
    created_at: str


class Summary(BaseModel):
    """The fields of summary.json, in their order."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    rows_requested: int
    rows_embedded: int
    rows_failed: int
    chunks_missing: str
    """The chunks that a partial merge went without, as in `3,7-9`."""
    result_bytes: int
    failures_by_reason: dict[str, int]
    dimensions: int
    chunk_count: int
    chunks_merged: str
    chunks_topped_up: str = ""
    """The chunks whose rows this merge took from chunk files, while it took those of all others from an earlier result;
    as in `3,7-9`."""
    table_digest: str = ""
    """The digest of the result's table of chunks, "" in a summary of an earlier version."""
    provenance: Provenance
    embedded_by: list[str]
    """The versions of the program that computed the chunks."""
    merged_by: str
    """The version of the program that merged them."""
    created_at: str
    """Time in UTC, in ISO 8601."""
    assembly: str
    """How the vectors got into the result: `server-side`, `streaming`, or `found` if a whole result was there."""
    verification: Verification
    bytes_copied_by_store: int
    bytes_uploaded: int
    bytes_read: int
    seconds: float
    """Duration of the merge."""
    chunk_times: list[ChunkTimes] = []
    """In the order of the indexes; without the chunks of earlier versions of this program. Of a run with more chunks
    than MOST_CHUNK_TIMES, some are left out."""
    gpu_hours: float = 0
    """Hours of GPUs of all chunks, their earlier attempts included as far as they are known. 0 on CPUs."""
    gpu_hour_price: float = 0
    """Price of a GPU for an hour, in any currency. 0: unknown."""
    computing_seconds: float = 0
    """Time in which at least one worker computed, in seconds. 0: unknown."""
    index: IndexSummary | None = None
    """The index beside the result, None until it is built."""

    @property
    def has_current_index(self) -> bool:
        """Whether the index belongs to this result, and not to one that a top-up has replaced."""
        return self.index is not None and (self.index.of_fingerprint, self.index.of_table_digest, self.index.rows) == (
            self.fingerprint,
            self.table_digest,
            self.rows_embedded,
        )

    @property
    def cost(self) -> float | None:
        """The price of all GPU hours, None where one of the two is unknown."""
        return self.gpu_hours * self.gpu_hour_price or None

    @property
    def cost_per_million(self) -> float | None:
        """The price of a million embedded images, None where it is unknown."""
        cost = self.cost
        return cost / self.rows_embedded * 1e6 if cost is not None and self.rows_embedded else None

    @property
    def images_per_second(self) -> float | None:
        """Embedded images a second while at least one worker computed, None where it is unknown."""
        return self.rows_embedded / self.computing_seconds if self.computing_seconds else None

    @field_validator("chunks_missing", "chunks_merged")
    @classmethod
    def _are_indexes(cls, text: str) -> str:
        parse_indexes(text)
        return text

    @property
    def missing(self) -> list[int]:
        return parse_indexes(self.chunks_missing)


def read_summary(store: Store) -> Summary | None:
    """Return the run's summary, None if there is none. Raises ChunkInvalid when the object is not a summary."""
    if store.stat(SUMMARY_KEY) is None:
        return None
    try:
        return Summary.model_validate_json(store.read(SUMMARY_KEY))
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ChunkInvalid(f"{store.location(SUMMARY_KEY)} is not a summary of a merge: {details}") from error


def write_summary(store: Store, summary: Summary, *, replacing: ObjectStat | None) -> None:
    """Write summary.json.

    Raises ObjectExists when an object other than `replacing` is there, and StoreUnavailable when the stored object does
    not have the size of what was written.
    """
    data = summary_bytes(summary)
    if store.put_bytes(SUMMARY_KEY, data, overwrite=False, replacing=replacing).size != len(data):
        raise StoreUnavailable(f"{store.location(SUMMARY_KEY)} is not what was written")


def summary_bytes(summary: Summary) -> bytes:
    """Return the text of summary.json: each chunk's times take one line."""
    fields = summary.model_dump(mode="json")
    times = [json.dumps(each, ensure_ascii=False) for each in fields.pop("chunk_times")]
    text = json.dumps(fields | {"chunk_times": []}, indent=2, ensure_ascii=False)
    if times:
        # The empty list is the end of the text, so it is not one that stands within a value.
        listed = ",\n".join(f"    {each}" for each in times)
        text = f'{text.removesuffix(_NO_TIMES)}"chunk_times": [\n{listed}\n  ]\n}}'
    return f"{text}\n".encode()


_NO_TIMES = '"chunk_times": []\n}'
"""How summary.json ends without times."""
