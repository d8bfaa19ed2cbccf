"""A top-up: the rows of a chunk that failed for a reason that may have passed are computed again, all others stay.

    find the earlier rows -> settle those that stay -> (the pipeline computes the others) -> replace the chunk file

The chunk file is put into the store only where nobody else changed what was found, so two top-ups, a merge and a worker
may come in between. Then the rows of both are joined: a row that any of them has embedded is embedded, and no row is
ever taken away. A top-up of a merged run leaves its chunk file in the store, for the merge that follows.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import ChunkInvalid, FingerprintMismatch, SettingsError, StoreUnavailable
from common.format.failures_csv import harmless
from common.format.rows import to_bytes_column
from common.logs import ROWS_TAKEN_OVER, log
from common.process.resources import temporary_folder
from common.run.keys import RESULT_KEY, chunk_key
from common.store.contract import ObjectExists, ObjectReplaced, ObjectStat
from worker.chunk_job.earlier_chunk import EarlierChunks
from worker.chunk_job.outcome import AlreadyMerged, AlreadyStored, NothingToTopUp, ToppedUp
from worker.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from common.format.chunk_times import Attempt, SamplePicture
    from common.format.provenance import Provenance
    from common.format.reasons import Reason
    from common.store.contract import Store
    from worker.chunk_job.chunk_in_store import ChunkInStore
    from worker.chunk_job.earlier_chunk import Block, EarlierChunk
    from worker.chunk_job.outcome import Stored
    from worker.collector import Vectors
    from worker.manifest.manifest import ManifestChunk
    from worker.rows import Row

ATTEMPTS = 5
"""Number of attempts to read or to store a chunk that other pods store, merge or delete at the same time."""

DELETION_SECONDS = 5.0
"""Time in seconds after which a merge of a few chunks has deleted a chunk file that it has looked at. The look and the
deletion are two steps, and a top-up may replace the chunk file in between."""

DELETED_PER_SECOND = 2000
"""Number of chunk files for which a merge takes one second more, because it looks at all of them first."""


def deletion_seconds(chunk_count: int) -> float:
    """Return the time in seconds in which a merge of so many chunks deletes the chunk files that it has looked at."""
    return DELETION_SECONDS + chunk_count / DELETED_PER_SECOND


class _Seen(NamedTuple):
    """The objects in the store whose rows the collector has."""

    chunk: ObjectStat | None
    result: ObjectStat | None


class TopUp:
    """The top-up of chunk `index` of the run in `store`, for the rows that failed for one of `reasons`.

    `check` is called with the provenance of each object and its location, and raises FingerprintMismatch.
    `deletion_seconds` is the time in which a merge of this run deletes the chunk files.
    """

    def __init__(
        self,
        store: Store,
        index: int,
        check: Callable[[Provenance, str], object],
        reasons: AbstractSet[Reason],
        *,
        deletion_seconds: float = 0,
    ) -> None:
        self._store, self._index, self._reasons = store, index, reasons
        self._deletion_seconds = deletion_seconds
        self._key = chunk_key(index)
        self._location = store.location(self._key)
        self._earlier = EarlierChunks(store, index, check)
        self._seen = _Seen(None, None)
        self._there: EarlierChunk | None = None
        self._rows: AbstractSet[int] = frozenset()
        """The positions of the rows that are computed again; none where there is no earlier chunk."""

    @property
    def has_earlier_rows(self) -> bool:
        """Whether rows of an earlier chunk were found, so that only some rows are computed."""
        return bool(self._rows)

    @property
    def replaced_attempts(self) -> Sequence[Attempt]:
        """The attempts that computed the chunk file that is replaced."""
        times = None if self._there is None else self._there.times
        return () if times is None else times.attempts

    @property
    def replaced_pictures(self) -> Sequence[SamplePicture]:
        """The pictures of the chunk file that is replaced."""
        return () if self._there is None else self._there.pictures

    def find_nothing_to_do(self) -> NothingToTopUp | None:
        """Return that no row is to be computed again, None if there are such rows."""
        found = self._earlier.find()
        if found.earlier is None or self._to_compute(found.earlier):
            return None
        if not found.earlier.is_merged:
            try:
                found.earlier.verify()
            except (ChunkInvalid, StoreUnavailable):
                return None
        return _nothing(self._index, found.earlier)

    def collector(self, chunk: ManifestChunk, vectors: Vectors) -> Collector | NothingToTopUp:
        """Return a collector in which all rows that stay are settled.

        Raises SettingsError when the earlier rows are not those of the manifest, FingerprintMismatch when they were
        made with other settings, and ChunkInvalid when the result or its ledger is damaged.
        """
        suspects: set[ObjectStat] = set()
        for _ in range(ATTEMPTS):
            self._seen = self._look()
            found = self._earlier.find()
            self._seen = self._seen._replace(chunk=found.chunk)
            collector = Collector(chunk, vectors)
            earlier = self._there = found.earlier
            if earlier is None:
                self._rows = frozenset()
                return collector
            self._rows = self._to_compute(earlier) - {failure.row for failure in chunk.failures}
            if not self._rows:
                return _nothing(self._index, earlier)
            try:
                self._settle(collector, chunk, earlier)
            except ChunkInvalid as error:
                # One wrong byte in one answer of the store, or another pod's chunk, looks like damage too.
                if earlier.source in suspects:
                    self._earlier.note_damage(earlier, error)
                suspects.add(earlier.source)
                log.warning("looking_again", error=str(error))
            except StoreUnavailable as error:
                if self._store.stat(earlier.source.key) == earlier.source:
                    raise
                log.info("another_pod_was_first", message=str(error))
            else:
                log.info(
                    ROWS_TAKEN_OVER,
                    embedded=collector.embedded,
                    failed=collector.failed,
                    to_compute=len(self._rows),
                    earlier=earlier.name,
                )
                return collector
        raise StoreUnavailable(f"other pods replaced or deleted {self._location} {ATTEMPTS} times")

    def store(
        self, collector: Collector, place: ChunkInStore, write: Callable[[Path], object]
    ) -> ObjectStat | AlreadyStored | AlreadyMerged:
        """Store the chunk. Return the stored object, or where the store has all its rows already.

        `write` writes the collector's rows as a chunk file. Raises FingerprintMismatch when another chunk of the run
        was made with other settings.
        """
        stored: ObjectStat | None = None
        for _ in range(ATTEMPTS):
            if self._look() != self._seen:
                try:
                    done = self._join(collector)
                except (ChunkInvalid, StoreUnavailable) as error:
                    if self._look() == self._seen:
                        raise
                    log.info("another_pod_was_first", message=str(error))
                    continue
                if done is not None:
                    return stored if stored is not None and stored == self._seen.chunk else done
            replaced = self._seen.chunk
            with temporary_folder("chunk") as folder:
                path = folder / "chunk.h5"
                write(path)
                try:
                    # Upload last: the key's existence means that the chunk is whole.
                    stored = self._store.put_file(self._key, path, overwrite=False, replacing=replaced)
                except (ObjectExists, ObjectReplaced) as error:
                    log.info("another_pod_was_first", message=str(error))
                    continue
            self._seen = self._seen._replace(chunk=stored)
            self._check_peers(stored, place)
            if replaced is not None and self._is_merged():
                time.sleep(self._deletion_seconds)
            if self._look() == self._seen:
                return stored
        raise StoreUnavailable(f"other pods replaced or deleted {self._location} {ATTEMPTS} times")

    def _is_merged(self) -> bool:
        """Return whether the result has the rows of the chunk file that was replaced: a merge may be deleting it."""
        there, merged = self._there, self._earlier.find_merged()
        return there is not None and merged is not None and there.embeddings.sha256 == merged.embeddings.sha256

    def outcome(self, stored: Stored, collector: Collector) -> Stored | ToppedUp:
        """Return what became of the rows that were computed again. A chunk that was computed as a whole is Stored."""
        if not self._rows:
            return stored
        by_reason = Counter(failure.reason for failure in collector.failures() if failure.row in self._rows)
        return ToppedUp(
            stored=stored,
            computed=len(self._rows),
            failed_by_reason={str(reason): count for reason, count in by_reason.most_common()},
        )

    def _look(self) -> _Seen:
        return _Seen(self._store.stat(self._key), self._store.stat(RESULT_KEY))

    def _to_compute(self, earlier: EarlierChunk) -> frozenset[int]:
        return frozenset(failure.row for failure in earlier.failures if failure.reason in self._reasons)

    def _settle(self, collector: Collector, chunk: ManifestChunk, earlier: EarlierChunk) -> None:
        """Settle the rows that stay as the earlier chunk has them."""
        if earlier.requested != collector.requested:
            raise SettingsError(
                f"{earlier.name} has {earlier.requested} rows of chunk {self._index}, and the list has "
                f"{collector.requested}; give the top-up the list and the settings of the run"
            )
        rows = {row.position: row for row in chunk.rows}
        other: SettingsError | None = None
        for block in earlier.blocks():
            other = other or self._other_url(block, rows, earlier)
            if other is None:
                collector.embed(block.positions.tolist(), block.vectors)
        if other is not None:  # raised once the digests have shown that the URLs are what the worker wrote
            raise other
        for failure in earlier.failures:
            row = rows.get(failure.row)
            if row is None:  # the list itself says that it cannot be used
                continue
            # In a ledger, an apostrophe may stand before the URL.
            if harmless(row.url) != harmless(failure.url):
                raise self._other_row(failure.row, failure.url, row.url, earlier)
            if failure.row not in self._rows:
                collector.keep_failure(replace(failure, url=row.url, id=row.id))

    def _other_url(self, block: Block, rows: Mapping[int, Row], earlier: EarlierChunk) -> SettingsError | None:
        """Return an error for the first row whose URL is not the list's, None if there is no such row."""
        found = [rows.get(position) for position in block.positions.tolist()]
        urls = to_bytes_column([row.url if row is not None else "" for row in found])
        is_other = (urls != block.urls) | np.array([row is None for row in found])
        for number in np.flatnonzero(is_other)[:1].tolist():
            row = found[number]
            text = block.urls[number].decode("utf-8", "replace")
            return self._other_row(int(block.positions[number]), text, row.url if row is not None else None, earlier)
        return None

    def _other_row(self, position: int, found: str, expected: str | None, earlier: EarlierChunk) -> SettingsError:
        is_now = "cannot be used" if expected is None else f"is {expected}"
        return SettingsError(
            f"row {position} of chunk {self._index} is {found} in {earlier.name}, and in the list it {is_now}; give "
            "the top-up the list and the settings of the run"
        )

    def _join(self, collector: Collector) -> AlreadyStored | AlreadyMerged | None:
        """Add the rows that other pods have stored or merged meanwhile.

        Return where all rows of the collector are then, None if the chunk is to be stored.
        """
        seen = self._look()
        found = self._earlier.find()
        if found.earlier is not None and (found.earlier.is_merged or found.chunk != self._seen.chunk):
            self._add(collector, found.earlier)
        if found.earlier is None or not found.earlier.is_merged:
            merged = self._earlier.find_merged()
            if merged is not None:
                self._add(collector, merged)
        self._seen = seen._replace(chunk=found.chunk)
        there = self._there = found.earlier
        if there is None or there.embedded < collector.embedded:
            return None
        if there.is_merged:
            return AlreadyMerged(chunk=self._index, result=there.name)
        return AlreadyStored(
            chunk=self._index,
            location=there.name,
            embedded=there.embedded,
            failed=len(there.failures),
            deferred=there.deferred,
        )

    def _add(self, collector: Collector, place: EarlierChunk) -> None:
        """Settle the rows that failed here and that the place has, with its vectors."""
        missing = np.setdiff1d(place.positions, collector.embedded_rows())
        try:
            place.verify()
        except ChunkInvalid as error:
            log.warning("looking_again", error=str(error))
            try:
                place.verify()
            except ChunkInvalid as again:
                if self._store.stat(place.source.key) == place.source:
                    self._earlier.note_damage(place, again)
                raise StoreUnavailable(str(again)) from again
        if not missing.size:
            return
        log.info("joined", rows=missing.size, location=place.name)
        try:
            for block in place.blocks():
                is_missing = np.isin(block.positions, missing)
                if is_missing.any():
                    collector.embed_after_all(block.positions[is_missing], block.vectors[is_missing])
        except ChunkInvalid as error:
            raise StoreUnavailable(f"{place.name} changed while it was read: {error}") from error

    def _check_peers(self, stored: ObjectStat, place: ChunkInStore) -> None:
        try:
            place.check_peers()
        except FingerprintMismatch:
            if self._there is None:  # what replaced an earlier chunk has that chunk's rows, and stays
                place.take_back(stored)
            raise


def _nothing(index: int, earlier: EarlierChunk) -> NothingToTopUp:
    return NothingToTopUp(
        chunk=index,
        location=earlier.name,
        embedded=earlier.embedded,
        failed=len(earlier.failures),
        deferred=earlier.deferred,
    )
