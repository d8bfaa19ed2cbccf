"""What the merge says in summary.json about the run it has finished."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from common.errors import ChunkInvalid
from common.format.provenance import program_version
from common.format.result_file import read_result
from common.indexes import format_indexes
from common.run.keys import RESULT_KEY
from common.run.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.format.provenance import Provenance
    from common.run.summary import Verification
    from common.store.contract import ObjectStat, Store
    from merger.chunks import Inputs
    from merger.layout import Layout
    from merger.progress import Traffic


def result_provenance(store: Store, result: ObjectStat) -> Provenance | None:
    """Return what made the result, None where it is not a result of this program."""
    try:
        with store.open(RESULT_KEY, result.size) as file:
            return read_result(file, name=store.location(RESULT_KEY)).provenance
    except ChunkInvalid:
        return None


def summarise(
    inputs: Inputs,
    layout: Layout,
    *,
    failures_by_reason: Mapping[str, int],
    verification: Verification,
    assembly: str,
    traffic: Traffic,
    seconds: float,
) -> Summary:
    """Return the summary of a merge of `inputs` that took `seconds`."""
    headers = [chunk.header for chunk in inputs.chunks]
    return Summary(
        fingerprint=inputs.provenance.fingerprint,
        rows_requested=sum(header.requested for header in headers),
        rows_embedded=sum(header.embedded for header in headers),
        rows_failed=sum(header.failed for header in headers),
        chunks_missing=format_indexes(inputs.missing),
        result_bytes=layout.size,
        failures_by_reason=dict(sorted(failures_by_reason.items())),
        dimensions=layout.column("embeddings").row_bytes // 4,
        chunk_count=inputs.provenance.chunk_count,
        chunks_merged=format_indexes(header.index for header in headers),
        provenance=inputs.provenance,
        embedded_by=sorted({header.program_version for header in headers}),
        merged_by=program_version(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        assembly=assembly,
        verification=verification,
        bytes_copied_by_store=traffic.copied_by_store,
        bytes_uploaded=traffic.uploaded,
        bytes_read=traffic.read,
        seconds=round(seconds, 3),
    )
