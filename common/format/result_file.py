"""The attributes of the result, Images_Embedded.h5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from common.errors import ChunkInvalid
from common.format.hdf5 import READ_ERRORS, open_hdf5
from common.format.merged_chunks import DATASET, TABLE_DIGEST
from common.format.run_attributes import read_provenance
from common.indexes import parse_indexes
from common.process.resources import exhausted

if TYPE_CHECKING:
    from common.format.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class ResultHeader:
    """What the result says about the run."""

    provenance: Provenance
    requested: int
    """Number of rows of the manifest in the chunks that were merged."""
    embedded: int
    failed: int
    chunks_missing: str
    """The chunks that are not in a partial merge, as in `3,7-9`."""
    created_at: str
    """The time at which the newest chunk was written, in UTC, in ISO 8601."""
    table_digest: str
    """The digest of the table of the chunks (see common.format.merged_chunks), "" where an earlier version of this
    program merged them."""

    @property
    def missing(self) -> list[int]:
        return parse_indexes(self.chunks_missing)


def read_result(file: BinaryIO, *, name: str) -> ResultHeader:
    """Return what an open result says about the run. Raises ChunkInvalid, with `name`, when it is not a result."""
    try:
        with open_hdf5(file, name=name) as result:
            header = ResultHeader(
                provenance=read_provenance(result),
                requested=int(result.attrs["rows_requested"]),
                embedded=int(result.attrs["rows_embedded"]),
                failed=int(result.attrs["rows_failed"]),
                chunks_missing=str(result.attrs["chunks_missing"]),
                created_at=str(result.attrs["created_at"]),
                table_digest=str(result[DATASET].attrs[TABLE_DIGEST]) if DATASET in result else "",
            )
        _ = header.missing  # raises ValueError for a text of another form
    except READ_ERRORS as error:
        raise exhausted(error) or ChunkInvalid(
            f"{name} is not a result of this program, or damaged: {error}"
        ) from error
    return header
