"""One chunk from start to end: whether there is anything to do, the work, and the upload."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ChunkInvalid, FingerprintMismatch, SettingsError, StoreUnavailable
from common.format.chunk_file import read_header, verify_chunk, write_chunk
from common.format.provenance import Provenance
from common.format.result_file import read_result
from common.logs import log
from common.process import program
from common.process.resources import temporary_folder
from common.run.keys import CHUNKS_PREFIX, RESULT_KEY, chunk_key
from common.run.keys import chunk_index as index_of
from common.run.state import find_finished
from common.store import open_store
from common.store.contract import ObjectExists, ObjectReplaced
from worker.collector import Collector
from worker.decode import plain_jpeg
from worker.decode.decoders import Decoders
from worker.decode.geometry import PREPROCESSING_VERSION
from worker.encode.model_loading import ModelLoading
from worker.manifest.manifest import open_manifest
from worker.pipeline import Pipeline
from worker.stage_times import ADVICE
from worker.vector_file import VectorFile

if TYPE_CHECKING:
    from pathlib import Path

    from common.format.chunk_file import ChunkHeader
    from common.store.contract import ObjectStat, Store
    from worker.manifest.manifest import Manifest
    from worker.settings import WorkerSettings
    from worker.stage_times import Snapshot

MAX_CHUNK_ROWS = 2_000_000
"""A chunk file of more would not fit S3's 5 GiB for one upload."""


PUT_ATTEMPTS = 5
"""Of storing a chunk that other pods store or delete at the same time."""


def embed_chunk(settings: WorkerSettings) -> str:
    """Make sure that the chunk is in the store, and return the sentence that says so.

    Raises the errors of common.errors; whatever is raised, the store holds the whole chunk or none.
    """
    return _ChunkJob(settings).run()


class _ChunkJob:
    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._index = settings.chunk.chunk_index
        self._key = chunk_key(self._index)
        # First of all, since these take longest.
        self._decoders = Decoders(
            settings.decode.decoder_count,
            max_image_bytes=settings.fetch.max_image_bytes,
            timeout_seconds=settings.decode.decode_timeout_seconds,
        )
        self._model = ModelLoading(settings.encode)
        self._model.start()
        self._store: Store = open_store(settings.chunk.run_uri)
        self._store.check_access()
        self._manifest: Manifest = open_manifest(settings.manifest, http=settings.http)

    def run(self) -> str:
        is_damaged = False
        try:
            if (finished := self._find_finished_surely()) is not None:
                return finished
        except ChunkInvalid as error:
            log.warning("damaged_chunk", message=f"{error}; it is computed again")
            is_damaged = True
        with VectorFile() as vectors:
            return self._compute(vectors, overwrite=is_damaged)

    def _compute(self, vectors: VectorFile, *, overwrite: bool) -> str:
        chunk = self._manifest.read_chunk(self._index, self._settings.chunk.chunk_count)
        collector = Collector(chunk, vectors)
        log.info("started", of=self._settings.chunk.chunk_count, rows=collector.requested, manifest=self._manifest.name)
        if not plain_jpeg.is_available():
            log.info("no_compiled_decoder", message="JPEGs are left to the libraries, which take half as long again")
        if collector.requested > MAX_CHUNK_ROWS:
            raise SettingsError(
                f"chunk {self._index} has {collector.requested} rows, {MAX_CHUNK_ROWS} are the most; raise "
                "EMBEDDER_CHUNK_COUNT"
            )
        pipeline = Pipeline(
            self._settings,
            self._manifest,
            chunk,
            collector,
            decoders=self._decoders,
            batches=self._model.batches,
            encoder=self._model.encoder,
        )
        pipeline.start()
        if self._settings.chunk.metrics_port:
            from worker.metrics import serve_metrics  # noqa: PLC0415 - most runs have no use for it

            serve_metrics(self._settings.chunk.metrics_port, pipeline, collector, chunk_index=self._index)
        program.on_stop(lambda: self._log_progress(pipeline, collector))
        try:
            self._check_peers()
            self._wait(pipeline, collector)
        finally:
            pipeline.stop()
            self._decoders.close()
        return self._store_chunk(collector, overwrite=overwrite)

    def _provenance(self) -> Provenance:
        source = self._model.source.result()
        return Provenance(
            manifest=self._manifest.identity,
            chunk_count=self._settings.chunk.chunk_count,
            model=source.name,
            model_revision=source.revision,
            weights=source.weights,
            dtype=self._model.dtype.result(),
            preprocessing=PREPROCESSING_VERSION,
            rotation=self._settings.manifest.rotate,
            sources=",".join(self._manifest.sources),
        )

    def _find_finished_surely(self) -> str | None:
        """Do as `_find_finished`, and look again before what is found counts as damaged."""
        try:
            return self._find_finished()
        except ChunkInvalid as error:
            log.warning("looking_again", error=str(error))
            return self._find_finished()

    def _find_finished(self) -> str | None:
        """Return the sentence for a chunk that is done, None where it is to be computed.

        Raises FingerprintMismatch for one made otherwise, ChunkInvalid for one that is damaged.
        """
        chunk = self._store.stat(self._key)
        if chunk is None:
            return self._find_merged()
        try:
            header = self._verified(self._key, chunk.size)
        except (ChunkInvalid, StoreUnavailable):
            if self._store.stat(self._key) is not None:
                raise
            # Merged and deleted while it was read.
            return self._find_merged()
        self._provenance().check_same(header.provenance, name=self._store.location(self._key))
        return (
            f"chunk {self._index} is in the store already: {self._store.location(self._key)}, "
            f"{header.embedded} images of {header.requested}, {header.failed} failed"
        )

    def _find_merged(self) -> str | None:
        """Return the sentence for a run that is finished and holds the chunk, None where there is none.

        Raises FingerprintMismatch where the result was made otherwise, ChunkInvalid where it is none.
        """
        result = self._store.stat(RESULT_KEY)
        if result is None:
            return None
        name = self._store.location(RESULT_KEY)
        with self._store.open(RESULT_KEY, result.size) as file:
            merged = read_result(file, name=name)
        self._provenance().check_same(merged.provenance, name=name)
        # Without its summary the result is not verified, and the merge still wants every chunk.
        if self._index in merged.missing or find_finished(self._store) is None:
            return None
        return f"this run is finished: {name} holds chunk {self._index}"

    def _verified(self, key: str, size: int) -> ChunkHeader:
        with self._store.open(key, size) as file:
            header = verify_chunk(file, name=self._store.location(key))
        if header.index != self._index:
            raise ChunkInvalid(f"{self._store.location(key)} holds chunk {header.index}")
        return header

    def _check_peers(self) -> None:
        """Raise FingerprintMismatch when another chunk of the run was made otherwise, before more work is wasted."""
        provenance = self._provenance()
        for peer in self._store.list(CHUNKS_PREFIX):
            if peer.key == self._key or index_of(peer.key) is None:
                continue
            try:
                with self._store.open(peer.key, peer.size) as file:
                    header = read_header(file, name=self._store.location(peer.key))
            except ChunkInvalid as error:
                log.warning("damaged_peer", message=str(error))
                continue
            except StoreUnavailable:
                if self._store.stat(peer.key) is not None:
                    raise
                continue  # merged and deleted meanwhile
            provenance.check_same(header.provenance, name=self._store.location(peer.key))
            return

    def _wait(self, pipeline: Pipeline, collector: Collector) -> None:
        before, settled = pipeline.times.snapshot(), collector.settled
        while not pipeline.wait(self._settings.chunk.progress_seconds):
            before, settled = self._log_progress(pipeline, collector, since=before, settled=settled)
        now, _ = self._log_progress(pipeline, collector)
        stage, share = pipeline.times.waiting_on(now)
        log.info(
            "spent",
            **{f"{name}_s": seconds for name, seconds in now._asdict().items()},
            requests=pipeline.requests,
            megabytes=pipeline.bytes_received / 1e6,
            images_per_s=collector.settled / now.wall,
            bottleneck=f"{stage} {share:.0%} of the time: {ADVICE[stage]}",
        )

    def _log_progress(
        self, pipeline: Pipeline, collector: Collector, *, since: Snapshot | None = None, settled: int = 0
    ) -> tuple[Snapshot, int]:
        """Log how far the chunk is; rate and bottleneck are those since then, when `settled` rows were, or overall."""
        now = pipeline.times.snapshot()
        waiting_on, _ = pipeline.times.waiting_on(now, since=since)
        log.info(
            "embedded",
            images=collector.settled,
            of=collector.requested,
            failed=collector.failed,
            rate_per_s=(collector.settled - settled) / max(now.wall - (since.wall if since else 0), 1e-9),
            waiting_on=waiting_on,
        )
        return now, collector.settled

    def _store_chunk(self, collector: Collector, *, overwrite: bool) -> str:
        encoder = self._model.encoder.result()
        by_reason = collector.count_by_reason()
        chunk = collector.chunk(
            index=self._index,
            dimensions=encoder.dimensions,
            has_ids=self._manifest.has_ids,
            provenance=self._provenance(),
        )
        with temporary_folder("chunk") as folder:
            path = folder / "chunk.h5"
            write_chunk(path, chunk)
            # Upload last: the key's existence means that the chunk is whole.
            stored = self._put(path, overwrite=overwrite)
        if isinstance(stored, str):
            return stored
        if (finished := self._find_finished_meanwhile(stored)) is not None:
            return finished
        reasons = "".join(f", {reason} {count}" for reason, count in by_reason.most_common())
        return (
            f"chunk {self._index} is in the store: {self._store.location(self._key)}, {stored.size} bytes, "
            f"{len(chunk.urls)} images of {collector.requested}, {len(chunk.failures)} failed{reasons}"
        )

    def _put(self, path: Path, *, overwrite: bool) -> ObjectStat | str:
        """Return the chunk as it was stored, or the sentence for one that another pod has stored."""
        for _ in range(PUT_ATTEMPTS):
            try:
                return self._store.put_file(self._key, path, overwrite=overwrite)
            except (ObjectExists, ObjectReplaced) as error:
                log.info("another_pod_was_first", message=str(error))
            try:
                if (finished := self._find_finished_surely()) is not None:
                    return finished
                overwrite = False
            except ChunkInvalid as error:
                log.warning("damaged_chunk", message=f"{error}; it is replaced")
                overwrite = True
        raise StoreUnavailable(
            f"{self._store.location(self._key)} was replaced or deleted by somebody else {PUT_ATTEMPTS} times"
        )

    def _find_finished_meanwhile(self, stored: ObjectStat) -> str | None:
        """Return the sentence for a run that was merged, with this chunk from another pod, before this pod stored it.

        Nobody would ever delete the chunk then, so it is taken back. So it is where another pod's chunk or the result
        turns out to be made otherwise, which nobody could see before: one of the two is to say so, by raising
        FingerprintMismatch, and whoever stores last sees the other.
        """
        try:
            finished = self._find_merged()
            self._check_peers()
        except FingerprintMismatch:
            self._take_back(stored)
            raise
        except ChunkInvalid as error:
            log.warning("damaged_result", message=str(error))
            return None
        if finished is not None:
            self._take_back(stored)
        return finished

    def _take_back(self, stored: ObjectStat) -> None:
        if self._store.stat(self._key) == stored:
            self._store.delete([self._key])
            log.info("taken_back", key=self._key)
