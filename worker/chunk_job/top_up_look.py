"""The look before a top-up starts: a chunk in which nothing is to be computed again needs no model and no decoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.format.provenance import Provenance
from common.store import open_store
from worker.chunk_job.top_up import TopUp
from worker.decode.geometry import PREPROCESSING_VERSION
from worker.manifest.manifest import open_manifest

if TYPE_CHECKING:
    from worker.chunk_job.outcome import NothingToTopUp
    from worker.settings import WorkerSettings

OF_THE_MODEL = frozenset({"model", "model_revision", "weights", "dtype"})
"""The fields of the provenance that are known only once the model is loaded. They are compared before any row is
computed."""


def find_nothing_to_top_up(settings: WorkerSettings) -> NothingToTopUp | None:
    """Return that no row of the chunk is to be computed again, None if there are such rows, or if there is no chunk.

    Raises FingerprintMismatch when the run in the store was made from another list or with other settings.
    """
    manifest = open_manifest(
        settings.manifest, http=settings.http, mirror_url=settings.fetch.mirror_url, run_uri=settings.chunk.run_uri
    )
    known = Provenance(
        manifest=manifest.identity,
        chunk_count=settings.chunk.chunk_count,
        model="",
        model_revision="",
        weights="",
        dtype="",
        preprocessing=PREPROCESSING_VERSION,
        rotation=settings.manifest.rotate,
        sources=",".join(manifest.sources),
    )
    return TopUp(
        open_store(settings.chunk.run_uri),
        settings.chunk.chunk_index,
        lambda other, name: known.check_same(other, name=name, unknown=OF_THE_MODEL),
        settings.chunk.reasons_to_top_up,
    ).find_nothing_to_do()
