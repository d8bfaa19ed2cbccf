"""Carry out a plan: have the store copy what it can, and pass the rest through this process in bounded memory."""

from __future__ import annotations

import hashlib
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import StoreAccessDenied, StoreUnavailable
from merger.chunks import StoredChunk, read_rows, widen
from merger.layout import METADATA, Layout, Piece
from merger.parallel import ordered
from merger.plan import CopyPart, Part, UploadPart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from common.store import Assembly, Store
    from merger.progress import Progress, Traffic

READ_BYTES = 2 << 20
"""Of one read of a chunk's rows."""

READ_AHEAD_BYTES = 16 << 20
"""Of rows that were asked for and are not yet in a part."""

UPLOADS_IN_FLIGHT = 4
"""Parts held in memory while they are uploaded."""

GRACE_SECONDS = 5
"""How long what is under way may take to end once the assembly has failed or the process was asked to stop."""


class CopyFailed(Exception):
    """The store cannot copy, or says so."""


class DigestDiffers(Exception):
    """A chunk's rows are not those that its worker wrote."""


class Sources(NamedTuple):
    """Where the bytes of the result come from."""

    store: Store
    chunks: Sequence[StoredChunk]
    layout: Layout


def assemble(
    parts: Sequence[Part],
    sources: Sources,
    assembly: Assembly,
    *,
    concurrency: int,
    progress: Progress,
    traffic: Traffic,
) -> None:
    """Write all parts, copies and uploads side by side.

    Raises CopyFailed where the store does not copy, and DigestDiffers where rows that pass through are not those
    that were written.
    """
    copiers = ThreadPoolExecutor(concurrency, thread_name_prefix="copy")
    uploaders = ThreadPoolExecutor(min(concurrency, UPLOADS_IN_FLIGHT), thread_name_prefix="upload")
    copies: set[Future[None]] = set()
    uploads: set[Future[None]] = set()

    def copy(number: int, part: CopyPart) -> None:
        _copy(number, part, sources, assembly)
        progress.part_done(part)

    def upload(number: int, part: UploadPart, data: bytearray) -> None:
        assembly.upload(number, part.offset, data)
        progress.part_done(part)

    try:
        numbered = list(enumerate(parts, start=1))
        copies.update(copiers.submit(copy, number, part) for number, part in numbered if isinstance(part, CopyPart))
        through_here = [(number, part) for number, part in numbered if isinstance(part, UploadPart)]
        contents = read_parts([part for _, part in through_here], sources, concurrency=concurrency, traffic=traffic)
        for (number, part), data in zip(through_here, contents, strict=True):
            while len(uploads) >= UPLOADS_IN_FLIGHT:
                done, uploads = wait(uploads, timeout=1, return_when=FIRST_COMPLETED)
                _raise_first(done)
                progress.log_if_due()
            copies = _without_done(copies)
            uploads.add(uploaders.submit(upload, number, part, data))
        pending = copies | uploads
        while pending:
            done, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
            _raise_first(done)
            progress.log_if_due()
        progress.log()
    finally:
        for pool in (copiers, uploaders):
            pool.shutdown(wait=False, cancel_futures=True)
        # A part that arrives after the abort may stay in the store; so the abort waits for those under way, a little.
        wait(copies | uploads, timeout=GRACE_SECONDS)


def _without_done(futures: set[Future[None]]) -> set[Future[None]]:
    done = {future for future in futures if future.done()}
    _raise_first(done)
    return futures - done


def _raise_first(done: set[Future[None]]) -> None:
    for future in done:
        future.result()


def _copy(number: int, part: CopyPart, sources: Sources, assembly: Assembly) -> None:
    stat, header = sources.chunks[part.piece.chunk]
    span = header.spans[part.piece.column]
    start = span.offset + part.piece.first * span.row_bytes
    try:
        assembly.copy(number, part.offset, stat, start, part.size)
    except (StoreUnavailable, StoreAccessDenied) as error:
        raise CopyFailed(str(error)) from error


def read_parts(
    parts: Sequence[UploadPart], sources: Sources, *, concurrency: int, traffic: Traffic
) -> Iterator[bytearray]:
    """Yield the content of each part, one after the other; chunks are read ahead, in parallel and in bounded memory.

    Raises DigestDiffers once a column has passed whole and is not what its worker wrote.
    """
    column_digest = ColumnDigest(sources)

    def read(piece: Piece) -> NDArray[np.uint8]:
        return _read(piece, sources)

    blocks = (block for part in parts for piece in part.pieces for block in _blocks(piece))
    contents = ordered(read, blocks, concurrency=concurrency, cost=lambda block: block.size, budget=READ_AHEAD_BYTES)
    for part in parts:
        data = bytearray(part.size)
        filled = 0
        for piece in part.pieces:
            for block in _blocks(piece):
                rows = next(contents)
                if block.column != METADATA:
                    traffic.add(read=rows.nbytes)
                    column_digest.update(block, rows)
                data[filled : filled + block.size] = widen(rows, block.row_bytes).data.cast("B")
                filled += block.size
        yield data


def _blocks(piece: Piece) -> Iterator[Piece]:
    """Yield the piece in pieces of about READ_BYTES."""
    rows = max(1, READ_BYTES // piece.row_bytes)
    for start in range(0, piece.rows, rows):
        yield piece.part(start, min(rows, piece.rows - start))


def _read(piece: Piece, sources: Sources) -> NDArray[np.uint8]:
    if piece.column == METADATA:
        return np.frombuffer(sources.layout.metadata_at(piece.first, piece.rows), np.uint8).reshape(-1, 1)
    return read_rows(sources.store, sources.chunks[piece.chunk], piece.column, piece.first, piece.rows)


class ColumnDigest:
    """Checks the digest of every column of a chunk that passes whole and in order; any other it leaves alone."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._column = ("", -1)
        self._next_row = 0
        self._sha256 = hashlib.sha256()

    def update(self, piece: Piece, rows: NDArray[np.uint8]) -> None:
        if piece.first == 0:
            self._column, self._next_row, self._sha256 = (piece.column, piece.chunk), 0, hashlib.sha256()
        if (piece.column, piece.chunk) != self._column or piece.first != self._next_row:
            return
        self._sha256.update(rows.data)
        self._next_row += piece.rows
        stat, header = self._sources.chunks[piece.chunk]
        span = header.spans[piece.column]
        if self._next_row == span.rows and self._sha256.hexdigest() != span.sha256:
            raise DigestDiffers(
                f"{self._sources.store.location(stat.key)}: {piece.column} are not as they were written"
            )
