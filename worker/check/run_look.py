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

if TYPE_CHECKING:
    from common.format.provenance import Provenance
    from common.store.contract import Store


def look_at_run(store: Store, provenance: Provenance, *, rows: int) -> Finding:
    """Return what the run's place holds. Raises what a worker with this provenance would end with."""
    count = provenance.chunk_count
    if rows > MAX_CHUNK_ROWS * count:
        raise SettingsError(
            f"EMBEDDER_CHUNK_COUNT is {count}, so a chunk would have {rows // count:,} rows, and a chunk holds "
            f"{MAX_CHUNK_ROWS:,} at most; raise it to {-(-rows // MAX_CHUNK_ROWS)} or more"
        )
    with suppress(ChunkInvalid):  # a worker computes a damaged chunk again
        # No chunk has this index, so every chunk in the store is compared.
        ChunkInStore(store, count, lambda: provenance).check_peers()
    if (finished := find_finished(store)) is not None:
        provenance.check_same(finished.provenance, name=store.location(finished.result.key))
        return Finding(
            subject=Subject.RUN,
            verdict=Verdict.OK,
            message=f"the run is finished: {store.location(finished.result.key)} was made with these settings, and "
            "its chunks are not computed again",
            facts=RunFacts(chunk_count=count, is_there=True, is_finished=True),
        )
    there = sum(chunk_index(found.key) is not None for found in store.list(CHUNKS_PREFIX))
    facts = RunFacts(chunk_count=count, in_store=there, is_there=there > 0)
    if there:
        message = f"{there:,} of {count:,} chunks are in the store already, made with these settings"
    else:
        message = f"no chunk is in the store yet; {count:,} to compute, of about {-(-rows // count):,} images each"
    if rows < count:
        return Finding(
            subject=Subject.RUN,
            verdict=Verdict.WARNING,
            message=f"{message}; {count:,} chunks are more than {rows:,} rows: lower EMBEDDER_CHUNK_COUNT",
            facts=facts,
        )
    return Finding(subject=Subject.RUN, verdict=Verdict.OK, message=message, facts=facts)
