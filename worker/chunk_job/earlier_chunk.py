"""The rows of a chunk that an earlier worker has embedded, for a top-up.

They lie in the chunk's file or, once the run is merged, in the result and in the ledger, failures.csv. While a merge
replaces the result, they lie in the copy of the old result that the merge keeps until it has finished.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import ChunkInvalid, SettingsError, StoreUnavailable
from common.format.chunk_file import Failure, read_header
from common.format.merged_chunks import read_contents
from common.format.reasons import Reason
from common.format.result_file import read_result
from common.format.rows import check_norms
from common.format.sealed_file import BLOCK_BYTES, DatasetSpan
from common.logs import log
from common.process.resources import describe_error
from common.run.keys import EARLIER_RESULT_KEY, RESULT_KEY, chunk_key
from common.run.state import find_finished
from worker.chunk_job.ledger_lines import failures_of_chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

    from common.format.chunk_file import ChunkHeader
    from common.format.chunk_times import ChunkTimes, SamplePicture
    from common.format.merged_chunks import MergedChunk, ResultColumn
    from common.format.provenance import Provenance
    from common.store.contract import ObjectStat, Store

LOOKS = 5
"""Number of looks for a chunk that other pods store, merge or delete at the same time."""


LOOK_SECONDS = 1.0
"""Time in seconds between two looks at a result that a merge may be replacing."""


class Block(NamedTuple):
    """Some consecutive embedded rows."""

    positions: NDArray[np.intp]
    """(rows,): the rows' positions in the chunk."""
    urls: NDArray[np.bytes_]
    """(rows,)"""
    vectors: NDArray[np.float32]
    """(rows, dimensions)"""


@dataclass(frozen=True, kw_only=True)
class EarlierChunk:
    """A chunk that was computed before. Its failures are checked, its vectors are checked while they are read."""

    name: str
    """Location of the chunk file or of the result, for people."""
    source: ObjectStat
    """The object that holds the vectors."""
    is_merged: bool
    """Whether that object is a result."""
    requested: int
    failures: Sequence[Failure]
    """By ascending rows."""
    urls: DatasetSpan
    """The place of the embedded rows' URLs in that object."""
    url_bytes: int
    """Number of bytes of each URL that its digest covers. The other bytes are zeros."""
    embeddings: DatasetSpan
    """The place of the vectors in that object."""
    times: ChunkTimes | None = field(default=None, repr=False)
    """When the chunk file was computed. None for a result, whose summary says it, and for a file without it."""
    pictures: Sequence[SamplePicture] = field(default=(), repr=False)
    """Those of the chunk file; none of a result, whose report has them."""
    _store: Store = field(repr=False)

    @property
    def embedded(self) -> int:
        return self.requested - len(self.failures)

    @property
    def deferred(self) -> int:
        return sum(failure.reason is Reason.DEFERRED for failure in self.failures)

    @property
    def positions(self) -> NDArray[np.intp]:
        """Return the positions of the embedded rows, in ascending order."""
        failed = np.array([failure.row for failure in self.failures], dtype=np.intp)
        return np.delete(np.arange(self.requested, dtype=np.intp), failed)

    def blocks(self) -> Iterator[Block]:
        """Yield the embedded rows in their order, some at a time.

        Raises ChunkInvalid, after the last block at the latest, when they are not what the worker wrote; no row may be
        used before that. Raises StoreUnavailable when a read fails.
        """
        positions = self.positions
        digests = hashlib.sha256(), hashlib.sha256()
        at_once = max(1, BLOCK_BYTES // (self.urls.row_bytes + self.embeddings.row_bytes))
        with self._store.open(self.source.key, self.source.size) as file:
            for first in range(0, self.embedded, at_once):
                rows = min(at_once, self.embedded - first)
                try:
                    urls = _read(file, self.urls, first, rows)
                    vectors = _read(file, self.embeddings, first, rows)
                except OSError as error:
                    raise StoreUnavailable(describe_error(error, self.name)) from error
                except ValueError as error:
                    raise ChunkInvalid(f"{self.name} ends too early: {error}") from error
                digests[0].update(np.ascontiguousarray(urls[:, : self.url_bytes]).data)
                digests[1].update(vectors.data)
                block = Block(positions[first : first + rows], _texts(urls), vectors.view(np.float32))
                check_norms(block.vectors, name=self.name, first_row=first)
                yield block
        if [digest.hexdigest() for digest in digests] != [self.urls.sha256, self.embeddings.sha256]:
            raise ChunkInvalid(f"{self.name} is damaged: rows of the chunk are not the bytes that a worker wrote")

    def verify(self) -> None:
        """Read all rows. Raises what `blocks` raises."""
        for _ in self.blocks():
            pass


class Found(NamedTuple):
    """What the store holds of a chunk."""

    earlier: EarlierChunk | None
    """The rows that can be taken over; None if there are none."""
    chunk: ObjectStat | None
    """The object under the chunk's key, also a damaged one; None if there is none."""


class EarlierChunks:
    """Looks for chunk `index` of the run in `store`.

    `check` is called with the provenance of what is found and its location, and raises FingerprintMismatch.
    """

    def __init__(self, store: Store, index: int, check: Callable[[Provenance, str], object]) -> None:
        self._store, self._index, self._check = store, index, check
        self._key = chunk_key(index)
        self._damaged: set[ObjectStat] = set()

    def note_damage(self, earlier: EarlierChunk, error: ChunkInvalid) -> None:
        """Do not find this chunk file again. Raises the error for a result, which no worker can replace."""
        if earlier.is_merged:
            raise error
        log.warning("damaged_chunk", message=f"{error}; it is replaced")
        self._damaged.add(earlier.source)

    def find(self) -> Found:
        """Return the rows of the chunk file, else those of the finished run.

        Raises FingerprintMismatch, and ChunkInvalid when the result or its ledger is damaged.
        """
        for _ in range(LOOKS):
            chunk = self._store.stat(self._key)
            try:
                return Found(self._of_file(chunk) or self._of_result(), chunk)
            except StoreUnavailable:
                if self._store.stat(self._key) == chunk:
                    raise
        raise StoreUnavailable(f"other pods replaced or deleted {self._store.location(self._key)} {LOOKS} times")

    def find_merged(self) -> EarlierChunk | None:
        """Return the rows that the finished run holds, None if there is no such run, or if it cannot be read."""
        try:
            finished = find_finished(self._store)
            return None if finished is None else self._read_result(finished.result)
        except (ChunkInvalid, SettingsError, StoreUnavailable) as error:
            log.warning("result_not_read", message=str(error))
            return None

    # The chunk file

    def _of_file(self, chunk: ObjectStat | None) -> EarlierChunk | None:
        """Return the rows of the chunk file, None if it is absent or damaged."""
        if chunk is None or chunk in self._damaged:
            return None
        try:
            return self._read_file(chunk)
        except ChunkInvalid as error:
            # One wrong byte in one answer of the store looks like damage too.
            log.warning("looking_again", error=str(error))
        try:
            return self._read_file(chunk)
        except ChunkInvalid as error:
            log.warning("damaged_chunk", message=f"{error}; it is replaced")
            return None

    def _read_file(self, chunk: ObjectStat) -> EarlierChunk:
        name = self._store.location(self._key)
        with self._store.open(self._key, chunk.size) as file:
            header = read_header(file, name=name)
            if header.index != self._index:
                raise ChunkInvalid(f"{name} holds chunk {header.index}, expected chunk {self._index}")
            self._check(header.provenance, name)
            try:
                failures = _failures(file, header)
            except OSError as error:
                raise StoreUnavailable(describe_error(error, name)) from error
            except ValueError as error:
                raise ChunkInvalid(f"{name} is damaged: {error}") from error
        _check_failures(failures, header.requested, name=name)
        return EarlierChunk(
            name=name,
            source=chunk,
            is_merged=False,
            requested=header.requested,
            failures=failures,
            urls=header.spans["urls"],
            url_bytes=header.spans["urls"].row_bytes,
            embeddings=header.spans["embeddings"],
            times=header.times,
            pictures=header.pictures,
            _store=self._store,
        )

    # The result

    def _of_result(self) -> EarlierChunk | None:
        """Return the rows that the run's result holds, None if there is none that was verified."""
        for look in range(1, LOOKS + 1):
            result = self._verified_result()
            if result is None:
                # One wrong byte in an answer of the store makes a finished run look unfinished.
                if look == 1 and self._store.stat(RESULT_KEY) is not None:
                    continue
                return None
            try:
                return self._read_result(result)
            except (ChunkInvalid, StoreUnavailable) as error:
                if look == LOOKS:
                    raise
                # A merge replaces the result first, then the ledger and the summary.
                log.warning("looking_again", error=str(error))
                time.sleep(LOOK_SECONDS)
        return None

    def _verified_result(self) -> ObjectStat | None:
        finished = find_finished(self._store)
        if finished is not None:
            return finished.result
        # A merge after a top-up was interrupted: its base is the result that it was going to replace.
        return self._store.stat(EARLIER_RESULT_KEY)

    def _read_result(self, result: ObjectStat) -> EarlierChunk | None:
        name = self._store.location(result.key)
        with self._store.open(result.key, result.size) as file:
            self._check(read_result(file, name=name).provenance, name)
            contents = read_contents(file, name=name)
        if contents is None:
            raise SettingsError(
                f"{name} was merged by an earlier version of this program and does not say which rows are those of "
                "which chunk, so a top-up cannot take them over; choose another EMBEDDER_RUN_URI to embed all images "
                "again"
            )
        first, merged = _place_of(contents.chunks, self._index)
        if merged is None:
            return None
        failures = failures_of_chunk(self._store, self._index, count=merged.failed)
        _check_failures(failures, merged.requested, name=name)
        return EarlierChunk(
            name=name,
            source=result,
            is_merged=True,
            requested=merged.requested,
            failures=failures,
            urls=_span(contents.columns["urls"], first, merged.embedded, merged.urls_sha256),
            url_bytes=merged.url_bytes,
            embeddings=_span(contents.columns["embeddings"], first, merged.embedded, merged.embeddings_sha256),
            _store=self._store,
        )


def _place_of(chunks: Sequence[MergedChunk], index: int) -> tuple[int, MergedChunk | None]:
    """Return the chunk's first row in the result and what the result says about it; None if it is not there."""
    first = 0
    for chunk in chunks:
        if chunk.index == index:
            return first, chunk
        first += chunk.embedded
    return first, None


def _span(column: ResultColumn, first: int, rows: int, sha256: bytes) -> DatasetSpan:
    return DatasetSpan(column.offset + first * column.row_bytes, rows, column.row_bytes, sha256.hex())


def _failures(file: BinaryIO, header: ChunkHeader) -> list[Failure]:
    """Return the failed rows. Raises ValueError when their bytes are not those that were written."""
    rows = _whole(file, header, "failures/row").view(np.int64)[:, 0].tolist()
    texts = [
        [cell.tobytes().rstrip(b"\0").decode() for cell in _whole(file, header, f"failures/{name}")]
        for name in ("url", "id", "reason", "detail")
    ]
    return [
        Failure(row=row, url=url, id=id_, reason=Reason(reason), detail=detail)
        for row, url, id_, reason, detail in zip(rows, *texts, strict=True)
    ]


def _whole(file: BinaryIO, header: ChunkHeader, name: str) -> NDArray[np.uint8]:
    """Return all bytes of a dataset, (rows, bytes of a row). Raises ValueError unless its digest is right."""
    span = header.spans[name]
    data = _read(file, span, 0, span.rows)
    if hashlib.sha256(data.data).hexdigest() != span.sha256:
        raise ValueError(f"{name} are not the bytes that were written")
    return data


def _read(file: BinaryIO, span: DatasetSpan, first: int, rows: int) -> NDArray[np.uint8]:
    """Return rows of a dataset, (rows, bytes of a row)."""
    file.seek(span.offset + first * span.row_bytes)
    return np.frombuffer(file.read(rows * span.row_bytes), np.uint8).reshape(rows, span.row_bytes)


def _texts(cells: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Return (rows, bytes of a row) as (rows,) texts."""
    return cells.view(f"S{cells.shape[1]}")[:, 0]


def _check_failures(failures: Sequence[Failure], requested: int, *, name: str) -> None:
    rows = np.array([failure.row for failure in failures], dtype=np.int64)
    if rows.size and (rows[0] < 0 or rows[-1] >= requested or (np.diff(rows) <= 0).any()):
        raise ChunkInvalid(f"{name}: its failed rows are not ascending numbers from 0 to {requested - 1}")
