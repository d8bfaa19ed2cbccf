"""summary.json, written last: with it a run is finished, without it the merge is to be done again."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from common.errors import StoreUnavailable
from common.format.chunk_file import read_provenance
from common.format.hdf5 import open_hdf5
from common.format.provenance import program_version
from common.indexes import format_indexes
from common.run.finished_run import described
from common.run.keys import RESULT_KEY, SUMMARY_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.format.provenance import Provenance
    from common.store.contract import ObjectStat, Store
    from merger.chunks import Inputs
    from merger.layout import Layout
    from merger.progress import Traffic
    from merger.verify import Verification


def result_provenance(store: Store, result: ObjectStat) -> Provenance | None:
    """Return what made the result, None where it is no result of this program."""
    try:
        with store.open(RESULT_KEY, result.size) as opened, open_hdf5(opened, name=store.location(RESULT_KEY)) as file:
            return read_provenance(file)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError):
        return None


def write_summary(
    store: Store,
    inputs: Inputs,
    layout: Layout,
    *,
    attributes: Mapping[str, Any],
    failures_by_reason: Mapping[str, int],
    verification: Verification,
    assembly: str,
    traffic: Traffic,
    seconds: float,
    replacing: ObjectStat | None,
) -> None:
    """Write summary.json. Raises ObjectExists where another than `replacing` is there, and StoreUnavailable where the
    store does not keep it."""
    summary = described(attributes, layout.size) | {
        "failures_by_reason": dict(sorted(failures_by_reason.items())),
        "dimensions": layout.column("embeddings").row_bytes // 4,
        "chunk_count": inputs.provenance.chunk_count,
        "chunks_merged": format_indexes(chunk.header.index for chunk in inputs.chunks),
        "provenance": asdict(inputs.provenance),
        "embedded_by": sorted({chunk.header.program_version for chunk in inputs.chunks}),
        "merged_by": program_version(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "assembly": assembly,
        "verification": verification._asdict(),
        "bytes_copied_by_store": traffic.copied_by_store,
        "bytes_uploaded": traffic.uploaded,
        "bytes_read": traffic.read,
        "seconds": round(seconds, 3),
    }
    data = (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()
    if store.put_bytes(SUMMARY_KEY, data, overwrite=False, replacing=replacing).size != len(data):
        raise StoreUnavailable(f"{store.location(SUMMARY_KEY)} is not what was written")
