"""The work that a plan asks for: the store copies what it can, and the rest passes through this process."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from itertools import chain
from typing import TYPE_CHECKING

from common.errors import StoreAccessDenied, StoreUnavailable
from common.parallel import ordered
from merger.layout import METADATA
from merger.plan import CopyPart, Part, UploadPart
from merger.sources import ColumnDigest, blocks, widen

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from common.store.contract import Assembly
    from merger.progress import Progress
    from merger.sample import KeptRows
    from merger.sources import Sources

READ_BYTES = 2 << 20
"""Size of one read of a chunk's rows, in bytes."""

READ_AHEAD_BYTES = 16 << 20
"""Largest number of bytes of rows that were requested and are not yet in a part."""

UPLOADS_IN_FLIGHT = 4
"""Largest number of parts in memory while they are uploaded."""

GRACE_SECONDS = 3
"""Longest wait, in seconds, for requests in flight to end after a failure or a stop."""


class CopyFailed(Exception):
    """The store refused to copy a part, or failed to."""


def assemble(
    parts: Sequence[Part],
    sources: Sources,
    assembly: Assembly,
    *,
    kept: KeptRows,
    concurrency: int,
    progress: Progress,
) -> None:
    """Write all parts, copies and uploads at the same time. `kept` keeps the rows it wants when they pass through here.

    Raises CopyFailed where the store does not copy a part, and DigestDiffers where a column that passes through is not
    what its worker wrote.
    """
    copiers = ThreadPoolExecutor(concurrency, thread_name_prefix="copy")
    uploaders = ThreadPoolExecutor(min(concurrency, UPLOADS_IN_FLIGHT), thread_name_prefix="upload")
    copies: set[Future[None]] = set()
    uploads: set[Future[None]] = set()
    numbered = list(enumerate(parts, start=1))
    through_here = [(number, part) for number, part in numbered if isinstance(part, UploadPart)]
    contents = read_parts([part for _, part in through_here], sources, kept=kept, concurrency=concurrency)

    def copy(number: int, part: CopyPart) -> None:
        _copy(number, part, sources, assembly)
        progress.part_done(part)

    def upload(number: int, part: UploadPart, data: bytearray) -> None:
        assembly.upload(number, part.offset, data)
        progress.part_done(part)

    try:
        copies.update(copiers.submit(copy, number, part) for number, part in numbered if isinstance(part, CopyPart))
        for (number, part), data in zip(through_here, contents, strict=True):
            while len(uploads) >= UPLOADS_IN_FLIGHT:
                done, uploads = wait(uploads, return_when=FIRST_COMPLETED)
                _raise_first(done)
            copies = _without_done(copies)
            uploads.add(uploaders.submit(upload, number, part, data))
        pending = copies | uploads
        while pending:
            done, pending = wait(pending, return_when=FIRST_EXCEPTION)
            _raise_first(done)
        progress.log()
    finally:
        contents.close()
        for pool in (copiers, uploaders):
            pool.shutdown(wait=False, cancel_futures=True)
        # The caller may abort the upload now. A part that arrives after the abort may stay in the store for good.
        wait({future for future in copies | uploads if not future.cancelled()}, timeout=GRACE_SECONDS)


def _without_done(futures: set[Future[None]]) -> set[Future[None]]:
    done = {future for future in futures if future.done()}
    _raise_first(done)
    return futures - done


def _raise_first(done: set[Future[None]]) -> None:
    for future in done:
        future.result()


def _copy(number: int, part: CopyPart, sources: Sources, assembly: Assembly) -> None:
    chunk = sources.chunks[part.piece.chunk]
    # The rows of neighbours in an earlier result lie behind each other, so a part may go on in the next chunk.
    start = chunk.header.spans[part.piece.column].offset + part.piece.first * sources.row_pitch(part.piece)
    try:
        assembly.copy(number, part.offset, chunk.stat, start, part.size)
    except (StoreUnavailable, StoreAccessDenied) as error:
        raise CopyFailed(str(error)) from error


def read_parts(
    parts: Sequence[UploadPart], sources: Sources, *, kept: KeptRows, concurrency: int
) -> Generator[bytearray]:
    """Yield the content of each part, in order. Chunks are read ahead, in parallel, within READ_AHEAD_BYTES.

    Raises DigestDiffers when the last row of a column has passed and the column is not what its worker wrote.
    """
    digest = ColumnDigest(sources)
    wanted = [[block for piece in part.pieces for block in blocks(piece, READ_BYTES)] for part in parts]
    contents = ordered(
        sources.read,
        chain.from_iterable(wanted),
        concurrency=concurrency,
        cost=lambda block: block.size,
        budget=READ_AHEAD_BYTES,
    )
    rest = memoryview(b"")  # the end of a row that begins in the part before
    for part, pieces in zip(parts, wanted, strict=True):
        data = bytearray(part.size)
        filled = min(len(rest), part.size)
        data[:filled], rest = rest[:filled], rest[filled:]
        for piece in pieces:
            rows = next(contents)
            if piece.column != METADATA:
                digest.update(piece, rows)
                kept.take(piece, rows)
            content = widen(rows, piece.row_bytes).data.cast("B")
            fitting = min(piece.size, part.size - filled)
            data[filled : filled + fitting], rest = content[:fitting], content[fitting:]
            filled += fitting
        yield data
