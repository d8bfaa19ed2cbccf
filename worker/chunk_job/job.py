"""One chunk from start to end: the look at the store, the work, and the upload."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ChunkInvalid, EmbedderError, SettingsError, SourceUnavailable, TooManyFailures
from common.format.chunk_file import write_chunk
from common.format.provenance import Provenance
from common.logs import CHUNK_PROGRESS, CHUNK_STARTED, SLOW_SITE, log
from common.process import program
from common.process.resources import temporary_folder
from common.store import open_store
from common.store.contract import ObjectStat
from worker.chunk_job.attempt_record import AttemptRecord, sample_of
from worker.chunk_job.checkpoints import Checkpoints
from worker.chunk_job.chunk_in_store import ChunkInStore
from worker.chunk_job.failures_file import FailuresFile
from worker.chunk_job.outcome import AlreadyMerged, NothingToTopUp, Stored
from worker.chunk_job.top_up import TopUp, deletion_seconds
from worker.chunk_job.top_up_look import find_nothing_to_top_up
from worker.collector import Collector
from worker.decode import plain_jpeg
from worker.decode.geometry import PREPROCESSING_VERSION
from worker.decode.sample_pictures import SamplePictures, picture_count
from worker.decoders.decoders import Decoders
from worker.decoders.settings import decoder_settings
from worker.encode.model_loading import ModelLoading
from worker.failure_report import ImagesFailed
from worker.fetch.relayed_proxies import RelayedProxies
from worker.manifest.manifest import open_manifest
from worker.metrics import serve_chunk_metrics
from worker.pipeline import Pipeline
from worker.spool import opened_spool
from worker.stage_times import ADVICE, SLOW_SITES_ADVICE, StageTimes
from worker.vector_file import VectorFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.format.chunk_file import Chunk
    from common.format.chunk_times import ChunkTimes, SamplePicture
    from common.store.contract import Store
    from worker.chunk_job.outcome import Outcome
    from worker.manifest.manifest import Manifest, ManifestChunk
    from worker.rows import HeldImages
    from worker.settings import WorkerSettings
    from worker.stage_times import Snapshot

MAX_CHUNK_ROWS = 2_000_000
"""Number of rows of the largest chunk: S3 takes 5 GiB in one upload, and the file of a larger chunk would not fit."""

LOGGED_SITES = 5
"""Number of slow sites that are logged with the progress: those with the most images left."""


def embed_chunk(settings: WorkerSettings) -> Outcome:
    """Make sure that the chunk is in the store, and return how it came there.

    Raises the errors of common.errors. After any error, the store holds the whole chunk or no chunk. After
    TooManyFailures it also holds the list of the failed images, if it could be written.
    """
    if settings.chunk.top_up and (nothing := find_nothing_to_top_up(settings)) is not None:
        return nothing
    return _ChunkJob(settings).run()


class _ChunkJob:
    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._index = settings.chunk.chunk_index
        self._record = AttemptRecord(self._index, attempt=settings.chunk.attempt)
        self._times = StageTimes(decode_threads=settings.decode.decoder_count)
        # Decoders and model take longest to start, so they come first.
        self._decoders = Decoders(
            settings.decode.decoder_count,
            decoder_settings(settings.http, settings.fetch, settings.decode),
            times=self._times,
        )
        self._proxies = RelayedProxies(connect_timeout_seconds=settings.http.connect_timeout_seconds)
        self._model = ModelLoading(
            settings.encode, descriptor=self._decoders.squares, spare_slots=self._decoders.spare_slots
        )
        self._model.start()
        store: Store = open_store(settings.chunk.run_uri)
        store.check_access()
        self._manifest: Manifest = open_manifest(
            settings.manifest,
            http=settings.http,
            mirror_url=settings.fetch.mirror_url,
            run_uri=settings.chunk.run_uri,
        )
        self._place = ChunkInStore(store, self._index, self._provenance)
        self._failures_file = FailuresFile(store, self._index)
        self._top_up: TopUp | None = None
        if settings.chunk.top_up:
            self._top_up = TopUp(
                store,
                self._index,
                lambda other, name: self._provenance().check_same(other, name=name),
                settings.chunk.reasons_to_top_up,
                deletion_seconds=deletion_seconds(settings.chunk.chunk_count),
            )
        self._checkpoints = Checkpoints(
            store,
            self._index,
            seconds=settings.chunk.checkpoint_seconds,
            provenance=self._provenance,
            dimensions=lambda: self._model.encoder.result().dimensions,
            attempt=lambda embedded: self._record.so_far(embedded=embedded, encoder=self._model.encoder.result()),
        )
        self._settled_at_start = 0
        self._pictures: SamplePictures | None = None

    def run(self) -> Outcome:
        outcome = self._run()
        if not isinstance(outcome, AlreadyMerged | NothingToTopUp):
            self._failures_file.remove()
        self._checkpoints.remove()
        return outcome

    def _run(self) -> Outcome:
        is_damaged = False
        try:
            if self._top_up is None and (done := self._place.find()) is not None:
                return done
        except ChunkInvalid as error:
            log.warning("damaged_chunk", message=f"{error}; it is computed again")
            is_damaged = True
        chunk = self._manifest.read_chunk(self._index, self._settings.chunk.chunk_count)
        try:
            with VectorFile() as vectors, opened_spool(chunk.held, self._settings.fetch.max_image_bytes) as held:
                return self._compute(chunk, held, vectors, overwrite=is_damaged)
        except ImagesFailed as failed:
            raise self._report(failed) from failed

    def _compute(
        self, chunk: ManifestChunk, held: HeldImages | None, vectors: VectorFile, *, overwrite: bool
    ) -> Outcome:
        chunk_count = self._settings.chunk.chunk_count
        collector = self._top_up.collector(chunk, vectors) if self._top_up else Collector(chunk, vectors)
        if isinstance(collector, NothingToTopUp):
            return collector
        columns = {} if self._manifest.columns is None else {"columns": self._manifest.columns}
        log.info(
            CHUNK_STARTED,
            of=chunk_count,
            rows=collector.requested,
            manifest=self._manifest.name,
            files=self._manifest.file_count,
            **columns,
        )
        if not plain_jpeg.is_available():
            log.info(
                "no_compiled_decoder",
                message="the libraries decode all JPEGs, which takes 1.5 times as long; install with a C compiler",
            )
        if not self._settings.fetch.verify_image_certificates:
            log.warning(
                "certificates_not_checked",
                message="images are fetched from hosts whose certificate is not valid too, because of "
                "EMBEDDER_VERIFY_IMAGE_CERTIFICATES; whoever sits between can send other pictures",
            )
        if collector.requested > MAX_CHUNK_ROWS:
            raise SettingsError(
                f"chunk {self._index} has {collector.requested} rows, a chunk holds {MAX_CHUNK_ROWS} at most; raise "
                "EMBEDDER_CHUNK_COUNT"
            )
        self._checkpoints.resume(collector)
        rows = collector.unsettled_rows()
        self._settled_at_start = collector.settled
        self._record.note_start(collector)
        if self._settings.chunk.sample_pictures:
            self._pictures = SamplePictures(collector.requested, picture_count(chunk_count))
        if held is not None:
            for position in {row.position for row in chunk.rows} - {row.position for row in rows}:
                held.release(position)
        pipeline = Pipeline(
            collector,
            rows,
            sources=self._manifest.sources,
            folder=self._manifest.folder,
            held=held,
            decoders=self._decoders,
            proxies=self._proxies,
            batches=self._model.batches,
            encoder=self._model.encoder,
            fetch=self._settings.fetch,
            http=self._settings.http,
            inflight_bytes=self._settings.decode.inflight_bytes,
            encode_timeout_seconds=self._settings.encode.encode_timeout_seconds,
            max_failure_ratio=self._settings.chunk.max_failure_ratio,
            times=self._times,
            # These rows have failed before. If their hosts all answer 5xx, they fail again, and nothing is lost.
            errors_are_answers=self._top_up is not None and self._top_up.has_earlier_rows,
            pictures=self._pictures,
        )
        pipeline.start()
        if self._settings.chunk.metrics_port:
            serve_chunk_metrics(
                self._settings.chunk.metrics_port,
                pipeline,
                collector,
                chunk_index=self._index,
                max_failure_ratio=self._settings.chunk.max_failure_ratio,
            )
        program.on_stop(lambda: self._log_progress(pipeline, collector))
        try:
            self._checkpoints.start(collector)
            # A run with other settings is noticed here, before more work is wasted.
            self._place.check_peers()
            self._wait(pipeline, collector)
        finally:
            self._checkpoints.stop()
            pipeline.stop()
            self._decoders.close()
            self._proxies.close()
        times = self._note_times(pipeline, collector)
        return self._store_chunk(collector, times, overwrite=overwrite)

    def _report(self, failed: ImagesFailed) -> EmbedderError:
        """Log why the images failed, leave the list of them in the store, and return the error that ends the chunk."""
        report = failed.report
        report.log()
        if failed.is_unanswered:
            return SourceUnavailable(
                f"no source answered for any of {len(report.failures)} images ({report.reasons}); "
                f"{report.causes[0].advice}"
            )
        sentence = report.sentence()
        counts = {str(cause.reason): cause.count for cause in report.causes}
        listed_at = self._failures_file.write(report.failures)
        if listed_at is None:
            return TooManyFailures(sentence, counts=counts)
        return TooManyFailures(
            f"{sentence}; all of them: {listed_at}", counts={"listed": len(report.failures), **counts}
        )

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

    def _wait(self, pipeline: Pipeline, collector: Collector) -> None:
        before, settled = pipeline.times.snapshot(), collector.settled
        while not pipeline.wait(self._settings.chunk.progress_seconds):
            now, settled = self._log_progress(pipeline, collector, since=before, settled=settled)
            self._record.note_waits(pipeline.times.waits(now, since=before))
            before = now
        now, _ = self._log_progress(pipeline, collector)
        self._record.note_waits(pipeline.times.waits(now, since=before))
        bottleneck = pipeline.times.bottleneck(now)
        is_slowed = bottleneck.stage == "fetch" and pipeline.had_slow_sites
        advice = SLOW_SITES_ADVICE if is_slowed else ADVICE[bottleneck.stage]
        log.info(
            "spent",
            **{f"{name}_s": seconds for name, seconds in now._asdict().items()},
            requests=pipeline.requests,
            megabytes=pipeline.bytes_received / 1e6,
            images_per_s=(collector.settled - self._settled_at_start) / now.wall,
            bottleneck=f"{bottleneck.stage} {bottleneck.share:.0%} of the time: {advice}",
        )

    def _log_progress(
        self, pipeline: Pipeline, collector: Collector, *, since: Snapshot | None = None, settled: int | None = None
    ) -> tuple[Snapshot, int]:
        """Log how far the chunk is, and return the times and the number of settled rows, for the next call.

        Rate and bottleneck cover the time after the snapshot `since`, at which `settled` rows were settled. Without
        `since` they cover all time.
        """
        now = pipeline.times.snapshot()
        if settled is None:
            settled = self._settled_at_start
        log.info(
            CHUNK_PROGRESS,
            images=collector.settled,
            of=collector.requested,
            failed=collector.failed,
            deferred=collector.deferred,
            rate_per_s=(collector.settled - settled) / max(now.wall - (since.wall if since else 0), 1e-9),
            waiting_on=pipeline.times.bottleneck(now, since=since).stage,
        )
        for site in pipeline.slow_sites()[:LOGGED_SITES]:
            log.info(SLOW_SITE, site=site.name, rate_per_s=site.rate, left=site.left, done_in_s=site.seconds_left)
        return now, collector.settled

    def _store_chunk(self, collector: Collector, times: ChunkTimes, *, overwrite: bool) -> Outcome:
        if self._top_up is not None:
            stored = self._top_up.store(
                collector, self._place, lambda path: write_chunk(path, self._chunk(collector, times))
            )
        else:
            with temporary_folder("chunk") as folder:
                path = folder / "chunk.h5"
                write_chunk(path, self._chunk(collector, times))
                # Upload last: the key's existence means that the chunk is whole.
                stored = self._place.put(path, overwrite=overwrite)
        if not isinstance(stored, ObjectStat):
            return stored
        outcome = Stored(
            chunk=self._index,
            location=self._place.location,
            size=stored.size,
            embedded=collector.embedded,
            failed=collector.failed,
            deferred=collector.deferred,
            failures_by_reason={str(reason): count for reason, count in collector.count_by_reason().most_common()},
        )
        return outcome if self._top_up is None else self._top_up.outcome(outcome, collector)

    def _note_times(self, pipeline: Pipeline, collector: Collector) -> ChunkTimes:
        """Return what the chunk file says about this attempt."""
        return self._record.times(
            collector,
            self._model.encoder.result(),
            encoded_seconds=pipeline.times.snapshot().encode_worked,
            bytes_fetched=pipeline.bytes_received,
            earlier=self._checkpoints.earlier,
        )

    def _chunk(self, collector: Collector, times: ChunkTimes) -> Chunk:
        pictures: Sequence[SamplePicture] = ()
        if self._pictures is not None:
            earlier = () if self._top_up is None else self._top_up.replaced_pictures
            pictures = [*earlier, *sample_of(collector, self._pictures.jpegs())]
        if self._top_up is not None:
            # A top-up may join rows that other pods have embedded, and may replace their chunk file.
            times = times.model_copy(update={"rows": collector.requested, "failed": collector.failed})
            times = times.after(self._top_up.replaced_attempts)
        return collector.chunk(
            index=self._index,
            dimensions=self._model.encoder.result().dimensions,
            has_ids=self._manifest.has_ids,
            provenance=self._provenance(),
            times=times,
            pictures=pictures,
        )
