"""The counts of a run that both its result and its summary.json state.

A run is finished only when the two state the same counts (see `common.run.state.find_finished`). So both are made from
one `Totals`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.indexes import format_indexes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from common.format.chunk_file import ChunkHeader


class Totals(NamedTuple):
    """The fields have the names that the attributes of the result and the fields of summary.json have."""

    rows_requested: int
    """Number of rows of the manifest in the chunks that are merged."""
    rows_embedded: int
    rows_failed: int
    chunks_missing: str
    """The chunks that a partial merge goes without, as in `3,7-9`."""


def count_totals(headers: Sequence[ChunkHeader], missing: Iterable[int]) -> Totals:
    """Return the totals of a merge of the chunks with these headers, without the `missing` chunks."""
    return Totals(
        rows_requested=sum(header.requested for header in headers),
        rows_embedded=sum(header.embedded for header in headers),
        rows_failed=sum(header.failed for header in headers),
        chunks_missing=format_indexes(missing),
    )
