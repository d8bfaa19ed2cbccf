"""The content of summary.json for one merge."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from common.format.merged_chunks import encode_table, table_digest
from common.format.provenance import program_version
from common.indexes import format_indexes
from common.run.summary import Summary
from merger.layout import EMBEDDINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.run.summary import Verification
    from merger.chunk_times import Times
    from merger.chunks import Inputs
    from merger.layout import Layout
    from merger.progress import Traffic
    from merger.totals import Totals


def summarise(
    inputs: Inputs,
    totals: Totals,
    layout: Layout,
    *,
    failures_by_reason: Mapping[str, int],
    verification: Verification,
    assembly: str,
    traffic: Traffic,
    seconds: float,
    times: Times,
    gpu_hour_price: float,
) -> Summary:
    """Return the summary of a merge of `inputs` that took `seconds`.

    The result and its summary must agree (see `merger.totals`). The result's attributes are made from the same
    `totals` and the same provenance, and its size is that of the layout.
    """
    return Summary(
        fingerprint=inputs.provenance.fingerprint,
        **totals._asdict(),
        result_bytes=layout.size,
        failures_by_reason=dict(sorted(failures_by_reason.items())),
        dimensions=layout.column(EMBEDDINGS).row_bytes // 4,
        chunk_count=inputs.provenance.chunk_count,
        chunks_merged=format_indexes(header.index for header in inputs.headers),
        chunks_topped_up=format_indexes(chunk.header.index for chunk in inputs.files) if inputs.earlier else "",
        table_digest=table_digest(encode_table(inputs.table)),
        provenance=inputs.provenance,
        embedded_by=inputs.embedded_by,
        merged_by=program_version(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        assembly=assembly,
        verification=verification,
        bytes_copied_by_store=traffic.copied_by_store,
        bytes_uploaded=traffic.uploaded,
        bytes_read=traffic.read,
        seconds=round(seconds, 3),
        chunk_times=times.chunks,
        gpu_hours=round(times.gpu_seconds / 3600, 6),
        gpu_hour_price=gpu_hour_price,
        computing_seconds=round(times.computing_seconds, 3),
    )
