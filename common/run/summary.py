"""summary.json: what a merge says about the run it has finished. It is written last."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from common.errors import ChunkInvalid, StoreUnavailable
from common.format.provenance import Provenance
from common.indexes import parse_indexes
from common.run.keys import SUMMARY_KEY

if TYPE_CHECKING:
    from common.store.contract import ObjectStat, Store


class Verification(BaseModel):
    """How the result was compared with the chunks."""

    model_config = ConfigDict(frozen=True)

    mode: str
    """`sample` or `full`."""
    rows_compared: int


class ChunkTimes(BaseModel):
    """When and how a chunk was computed: what the worker leaves in its chunk file, for the report.

    A time is in UTC, in ISO 8601. All numbers are of the attempt that wrote the chunk file.
    """

    model_config = ConfigDict(frozen=True)

    index: int
    started_at: str
    ended_at: str
    attempt: int | None = None
    """The number of the attempt, from 1. None where nobody told the worker."""
    images: int = 0
    """Number of images that this attempt embedded. Images of checkpoints and of an earlier chunk file do not count."""
    device: str = ""
    """The name of the device, as in `NVIDIA L4` or `cpu`."""
    gpus: int = 0
    """Number of GPUs that the worker held; 0 on CPUs."""
    waited_seconds: dict[str, float] = {}
    """For how long the encoder waited, in seconds, by what it waited for (see worker.stage_times)."""


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
    """In the order of the indexes; without the chunks of earlier versions of this program."""
    gpu_hours: float = 0.0
    """Hours of GPUs that the workers held, by `chunk_times`; 0 on CPUs and where the times are not known."""
    gpu_hour_price: float = 0.0
    """Price of an hour of one GPU, in any currency; 0 where it is not known."""
    index: IndexSummary | None = None
    """The index beside the result, None until it is built."""

    @property
    def cost(self) -> float | None:
        """The price of all GPU hours, in the currency of `gpu_hour_price`; None where it is not known."""
        return self.gpu_hours * self.gpu_hour_price or None

    @property
    def cost_per_million(self) -> float | None:
        """The cost of a million embedded images; None where it is not known."""
        return None if self.cost is None or not self.rows_embedded else 1e6 * self.cost / self.rows_embedded

    @property
    def has_current_index(self) -> bool:
        """Whether the index belongs to this result, and not to one that a top-up has replaced."""
        return self.index is not None and (self.index.of_fingerprint, self.index.of_table_digest, self.index.rows) == (
            self.fingerprint,
            self.table_digest,
            self.rows_embedded,
        )

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
    data = (json.dumps(summary.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()
    if store.put_bytes(SUMMARY_KEY, data, overwrite=False, replacing=replacing).size != len(data):
        raise StoreUnavailable(f"{store.location(SUMMARY_KEY)} is not what was written")
