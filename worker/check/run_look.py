"""What the run's place in the store holds already."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from common.errors import ChunkInvalid, SettingsError
from common.findings import Finding, RunFacts, Subject, Verdict
from common.run.keys import CHUNKS_PREFIX, chunk_index
from common.run.state import find_finished
from worker.chunk_job.chunk_in_store import ChunkInStore
from worker.chunk_job.job import MAX_CHUNK_ROWS
from worker.manifest.tar.rows import more_chunks_than_shards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.findings import ManifestFacts
    from common.format.provenance import Provenance
    from common.store.contract import Store


ROW_BYTES = 2100
"""Size in bytes of a row of a chunk file or of the result, without its URL: a vector of 512 dimensions, and an id."""

FILES_OF_A_ROW = 2
"""Number of files that hold a row while the run is merged: its chunk file and the result."""


def look_at_run(
    store: Store,
    provenance: Provenance,
    *,
    facts: ManifestFacts,
    unknown: Mapping[str, str],
    free_bytes: int | None,
) -> Finding:
    """Return what the run's place holds. Raises what a worker with this provenance would end with.

    `unknown` holds the fields of the provenance that cannot be known here, and why; they are not compared.
    `free_bytes` is the free space in bytes where the run's files will be, None where it has no limit.
    """
    count, rows = provenance.chunk_count, facts.rows
    if rows > MAX_CHUNK_ROWS * count:
        raise SettingsError(
            f"EMBEDDER_CHUNK_COUNT is {count}, so a chunk would have {rows // count:,} rows, and a chunk holds "
            f"{MAX_CHUNK_ROWS:,} at most; raise it to {-(-rows // MAX_CHUNK_ROWS)} or more"
        )
    with suppress(ChunkInvalid):  # a worker computes a damaged chunk again
        # No chunk has this index, so every chunk in the store is compared.
        ChunkInStore(store, count, lambda: provenance).check_peers(unknown=unknown.keys())
    if (finished := find_finished(store)) is not None:
        result = store.location(finished.result.key)
        provenance.check_same(finished.provenance, name=result, unknown=unknown.keys())
        return Finding(
            subject=Subject.RUN,
            verdict=Verdict.OK,
            message=f"the run is finished: {result} was made with these settings{_not_compared(unknown)}, and its "
            "chunks are not computed again",
            facts=RunFacts(chunk_count=count, is_there=True, is_finished=True),
        )
    there = [found.size for found in store.list(CHUNKS_PREFIX) if chunk_index(found.key) is not None]
    if there:
        message = (
            f"{len(there):,} of {count:,} chunks are in the store already, made with these settings"
            f"{_not_compared(unknown)}"
        )
    else:
        message = f"no chunk is in the store yet; {count:,} to compute, of about {-(-rows // count):,} images each"
    warnings = []
    if rows < count:
        warnings.append(f"{count:,} chunks are more than {rows:,} rows: lower EMBEDDER_CHUNK_COUNT")
    if facts.shards is not None and facts.shards < count:
        warnings.append(more_chunks_than_shards(facts.shards, count))
    needed = FILES_OF_A_ROW * rows * (ROW_BYTES + facts.mean_url_bytes) - sum(there)
    if free_bytes is not None and needed > free_bytes:
        warnings.append(
            f"the disk has {free_bytes / 1e6:,.0f} MB free, and the run needs about {needed / 1e6:,.0f} MB more: make "
            "room there (the chunk files stay until the result is verified)"
        )
    return Finding(
        subject=Subject.RUN,
        verdict=Verdict.WARNING if warnings else Verdict.OK,
        message="; ".join([message, *warnings]),
        facts=RunFacts(chunk_count=count, in_store=len(there), is_there=bool(there)),
    )


def _not_compared(unknown: Mapping[str, str]) -> str:
    """Return which fields were not compared, with the reason of each, as a part of a sentence."""
    fields: dict[str, list[str]] = {}
    for field, why in unknown.items():
        fields.setdefault(why, []).append(field.replace("_", " "))
    said = "; ".join(f"{', '.join(names)}: {why}" for why, names in fields.items())
    return f" (not compared: {said})" if said else ""
