"""The merge, from the chunks in the store to the finished run.

The order makes death at any line safe: the result is assembled and published in one step, verified, then the ledger is
written, then the summary, which makes the run finished, and only then are the chunk files deleted. Whoever comes after
a death finds a finished run, or all chunks.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from common.errors import ChunkInvalid, ChunksMissing, FingerprintMismatch, StoreUnavailable
from common.indexes import format_indexes
from common.logs import log
from common.process import program
from common.run.keys import FAILURES_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.run.state import FinishedRun, find_finished
from common.run.summary import write_summary
from common.store.contract import AssemblyGone, ObjectExists
from merger.assemble import CopyFailed, assemble
from merger.chunks import describe_problems, list_chunks, read_header_of, read_inputs
from merger.layout import EMBEDDINGS, compute_layout, result_attributes
from merger.ledger import FAILURE_DATASETS, spooled_ledger
from merger.parallel import ordered
from merger.plan import plan_parts
from merger.progress import Progress, Step, Traffic
from merger.sample import KeptRows, Sample, choose_rows, stretches
from merger.sources import DigestDiffers, Sources, column_is_damaged
from merger.summary import result_provenance, summarise
from merger.verify import Result, ResultDiffers, verify_full, verify_metadata, verify_sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from common.run.summary import Verification
    from common.store.contract import ObjectStat, Store
    from merger.plan import Part
    from merger.settings import MergerSettings

ATTEMPTS = 5
"""Of a merge that another one disturbs, by publishing first or by clearing up behind itself."""

DISTURBED_SECONDS = 2
"""Before the next attempt, so that two merges do not stay in step."""


def merge(store: Store, settings: MergerSettings) -> str:
    """Merge the run's chunks, return the sentence that says what is there now.

    Raises as `read_inputs` does; StoreUnavailable also where the result cannot be verified, and then it is deleted.
    """
    verdicts = set()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if (finished := _usable(store, settings)) is not None:
                return _say_finished(store, finished, settings)
            with Progress(interval_seconds=settings.progress_seconds) as progress:
                program.on_stop(progress.log)
                this = _Merge(store, settings, progress)
                # Chunks are deleted only once the run is finished: if some were while they were listed, that shows now.
                if this.lacks_chunks and (finished := _usable(store, settings)) is not None:
                    return _say_finished(store, finished, settings)
                return this.run()
        except (AssemblyGone, ObjectExists) as error:
            log.warning("merge_disturbed", attempt=attempt, of=ATTEMPTS, error=str(error))
            time.sleep(DISTURBED_SECONDS)
        except (ChunkInvalid, ChunksMissing, FingerprintMismatch) as error:
            # It would end the Job for good, and one answer with a wrong byte suffices for it, or a second pod that has
            # finished the run meanwhile. So it is believed once another look has found the same.
            if str(error) in verdicts:
                raise
            verdicts.add(str(error))
            log.warning("looking_again", attempt=attempt, of=ATTEMPTS, error=str(error))
        except StoreUnavailable as error:
            # A second pod may have finished the run meanwhile: what this one was reading is then gone by right.
            if attempt == ATTEMPTS or _usable(store, settings) is None:
                raise
            log.warning("merge_overtaken", attempt=attempt, of=ATTEMPTS, error=str(error))
    raise StoreUnavailable(
        f"{ATTEMPTS} attempts to make {store.location(RESULT_KEY)} were disturbed, or found what the next one did not; "
        "run one merge at a time"
    )


def _usable(store: Store, settings: MergerSettings) -> FinishedRun | None:
    """Return the finished merge, None where there is none or it can be made more complete.

    Raises FingerprintMismatch where the finished run has another chunk count.
    """
    finished = find_finished(store)
    if finished is None:
        return None
    if finished.provenance.chunk_count != settings.chunk_count:
        raise FingerprintMismatch(
            f"{store.location(RESULT_KEY)} was made of {finished.provenance.chunk_count} chunks, EMBEDDER_CHUNK_COUNT "
            f"is {settings.chunk_count}; choose another EMBEDDER_RUN_URI or the same settings"
        )
    if finished.header.missing and (
        settings.on_missing_chunks == "refuse" or list_chunks(store).keys() & set(finished.header.missing)
    ):
        return None
    return finished


def _say_finished(store: Store, finished: FinishedRun, settings: MergerSettings) -> str:
    """Clear up what a merge that died may have left, and say that there is nothing to do."""
    leftovers = list_chunks(store)
    for stat in leftovers.values():
        with suppress(ChunkInvalid):  # nobody can use it any more
            made_by = read_header_of(store, stat, Traffic()).provenance
            finished.provenance.check_same(made_by, name=store.location(stat.key))
    _clear_up(store, settings, leftovers, keep_chunks=settings.keep_chunks or bool(finished.header.missing))
    missing = f", without chunks {format_indexes(finished.header.missing)}" if finished.header.missing else ""
    return (
        f"this run is finished: {store.location(RESULT_KEY)} has {finished.header.embedded} images, "
        f"{finished.header.failed} failed{missing}"
    )


def _clear_up(store: Store, settings: MergerSettings, indexes: Iterable[int], *, keep_chunks: bool) -> None:
    # Uploads of the result are aborted only here, where the run is finished and none of them is of use any more: until
    # then any of them may belong to a merge that is alive.
    cleared = store.abort_assemblies(RESULT_KEY)
    cleared += store.clear_up([RESULT_KEY, FAILURES_KEY, SUMMARY_KEY, *map(chunk_key, range(settings.chunk_count))])
    if cleared:
        log.info("cleared_up", leftovers=cleared)
    if not keep_chunks:
        store.delete(chunk_key(index) for index in indexes)


class _Merge:
    """One attempt."""

    def __init__(self, store: Store, settings: MergerSettings, progress: Progress) -> None:
        self._store = store
        self._settings = settings
        self._started = time.monotonic()
        self._progress = progress
        self._traffic = progress.traffic
        self._inputs = read_inputs(
            store,
            chunk_count=settings.chunk_count,
            allow_missing=settings.on_missing_chunks == "partial",
            concurrency=settings.merge_concurrency,
            traffic=self._traffic,
        )
        headers = [chunk.header for chunk in self._inputs.chunks]
        self._attributes = result_attributes(headers, self._inputs.missing)
        self._layout = compute_layout(headers, self._attributes)
        self._sources = Sources(store, self._inputs.chunks, self._layout, self._traffic)
        self._published: ObjectStat | None = None

    @property
    def lacks_chunks(self) -> bool:
        return bool(self._inputs.missing)

    def run(self) -> str:
        chunks, layout = self._inputs.chunks, self._layout
        log.info(
            "merge_begins", chunks=len(chunks), missing=len(self._inputs.missing), rows=layout.rows, bytes=layout.size
        )
        try:
            # The ledger is spooled first: what is wrong with it is known before anything is published.
            self._progress.step = Step.FAILURES
            with spooled_ledger(self._sources, concurrency=self._settings.merge_concurrency) as ledger:
                assembly, verification = self._result()
                self._progress.step = Step.LEDGER
                seen = self._seen(FAILURES_KEY)
                self._store.put_file(FAILURES_KEY, ledger.path, overwrite=False, replacing=seen)
        except DigestDiffers as error:
            raise ChunkInvalid(self._name_damaged(error)) from error
        except ChunkInvalid as error:
            raise ChunkInvalid(describe_problems([str(error)], store=self._store)) from error
        self._progress.step = Step.SUMMARY
        summary = summarise(
            self._inputs,
            layout,
            failures_by_reason=ledger.by_reason,
            verification=verification,
            assembly=assembly,
            traffic=self._traffic,
            seconds=time.monotonic() - self._started,
        )
        write_summary(self._store, summary, replacing=self._seen(SUMMARY_KEY))
        self._progress.step = Step.CLEARING_UP
        keep_chunks = self._settings.keep_chunks or bool(self._inputs.missing)
        _clear_up(self._store, self._settings, (chunk.header.index for chunk in chunks), keep_chunks=keep_chunks)
        missing = f", without chunks {format_indexes(self._inputs.missing)}" if self._inputs.missing else ""
        return (
            f"{self._store.location(RESULT_KEY)} has {layout.rows} images of {self._attributes['rows_requested']}, "
            f"{self._attributes['rows_failed']} failed{missing}; {self._traffic.copied_by_store} bytes copied by the "
            f"store, {self._traffic.uploaded} uploaded, {verification.rows_compared} rows compared"
        )

    def _result(self) -> tuple[str, Verification]:
        """Publish the result unless it is there already; return how it was assembled, and how it was verified."""
        existing = self._store.stat(RESULT_KEY)
        if existing is not None and (provenance := result_provenance(self._store, existing)) is not None:
            self._inputs.provenance.check_same(provenance, name=self._store.location(RESULT_KEY))
        if existing is not None and existing.size == self._layout.size:
            try:
                sample = self._sample(self._plan(copying=True))
                self._published = existing
                return "found", self._verify(Result(existing.size, self._read, self._sources), sample, KeptRows())
            except ResultDiffers as error:
                log.info("result_replaced", because=str(error))
            except (DigestDiffers, ChunkInvalid):
                self._withdraw(existing)
                raise
        assemblies = {"auto": ["server-side", "streaming"]}.get(self._settings.assembly, [self._settings.assembly])
        for assembly in assemblies:
            try:
                return assembly, self._assemble(self._plan(copying=assembly == "server-side"), replacing=existing)
            except (CopyFailed, ResultDiffers) as error:
                problem = error
                log.warning("assembly_failed", assembly=assembly, error=str(error))
            existing = self._store.stat(RESULT_KEY)
        raise StoreUnavailable(
            f"{self._store.location(RESULT_KEY)} could not be made ({', then '.join(assemblies)}): {problem}; nothing "
            "was left there, and the chunks are as they were"
        ) from problem

    def _plan(self, *, copying: bool) -> Sequence[Part]:
        return plan_parts(self._layout, self._store.part_limits, copying=copying)

    def _assemble(self, parts: Sequence[Part], *, replacing: ObjectStat | None) -> Verification:
        """Assemble, verify and publish the result; what cannot be verified before it is published is after."""
        verification = None
        sample = self._sample(parts)
        kept = KeptRows(stretches(self._layout, sample))
        self._progress.begin(parts)
        with self._store.assemble(RESULT_KEY, size=self._layout.size, replacing=replacing) as assembly:
            assemble(
                parts,
                self._sources,
                assembly,
                kept=kept,
                concurrency=self._settings.merge_concurrency,
                progress=self._progress,
            )
            if assembly.is_readable:
                verification = self._verify(Result(self._layout.size, assembly.read, self._sources), sample, kept)
            self._progress.step = Step.PUBLISHING
            published = self._published = assembly.publish()
        if verification is not None:
            return verification
        try:
            return self._verify(Result(published.size, self._read, self._sources), sample, kept)
        except (ResultDiffers, DigestDiffers, ChunkInvalid):
            self._withdraw(published)
            raise

    def _seen(self, key: str) -> ObjectStat | None:
        """Return what is to be replaced, seen while the result was this merge's.

        Raises ObjectExists where another merge has replaced that, of other chunks perhaps. One that does so after this
        either replaces what was seen as well, and it is not replaced here any more, or comes to it after this.
        """
        seen = self._store.stat(key)
        if self._store.stat(RESULT_KEY) != self._published:
            raise ObjectExists(self._store.location(RESULT_KEY))
        return seen

    def _withdraw(self, published: ObjectStat) -> None:
        found = self._store.stat(RESULT_KEY)
        if found is not None and found.version == published.version:
            self._store.delete([RESULT_KEY])

    def _read(self, start: int, length: int) -> bytes:
        return self._store.read(RESULT_KEY, start, length)

    def _sample(self, parts: Sequence[Part]) -> Sample:
        """Return the rows of the result to compare, none where everything will be read."""
        if self._settings.verify == "full":
            return Sample()
        seed = self._inputs.provenance.fingerprint
        return choose_rows(self._layout, parts, random_rows=self._settings.verify_rows, seed=seed)

    def _verify(self, result: Result, sample: Sample, kept: KeptRows) -> Verification:
        self._progress.step = Step.VERIFYING
        try:
            return self._verify_once(result, sample, kept)
        except (ResultDiffers, DigestDiffers, ChunkInvalid) as error:
            # What was read for it may have been wrong, and not what is in the store.
            log.warning("verifying_again", because=str(error))
            return self._verify_once(result, sample, kept)

    def _verify_once(self, result: Result, sample: Sample, kept: KeptRows) -> Verification:
        verify_metadata(result)
        if self._settings.verify == "full":
            return verify_full(result, concurrency=self._settings.merge_concurrency)
        return verify_sample(result, sample, kept=kept, concurrency=self._settings.merge_concurrency)

    def _name_damaged(self, error: DigestDiffers) -> str:
        """Return the sentence that names every chunk whose columns are not as they were written.

        The first was found in passing; all are looked for, so that one rerun mends all. Vectors are many, and are
        looked at only where they were to be read anyway.
        """
        names = ["urls", "ids", *FAILURE_DATASETS]
        if self._settings.verify == "full":
            names.append(EMBEDDINGS)

        def problem(position: int) -> str:
            stat, header = self._inputs.chunks[position]
            damaged = [
                name for name in names if name in header.spans and column_is_damaged(self._sources, position, name)
            ]
            return f"{self._store.location(stat.key)}: damaged {', '.join(damaged)}" if damaged else ""

        found = ordered(problem, range(len(self._inputs.chunks)), concurrency=self._settings.merge_concurrency)
        return describe_problems([each for each in found if each] or [str(error)], store=self._store)
