"""One Parquet file of a manifest: its footer, checked before it is believed, and its content as pyarrow reads it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from common.errors import ManifestError, SourceUnavailable
from common.seekable_file import SeekableFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.read_ahead import ReadAhead

TAIL_BYTES = 65_536
"""Number of bytes that are read of a file's end. Nearly all footers are shorter, and need no second request."""

MAX_FOOTER_BYTES = 64 << 20
"""Size in bytes of the largest footer that is read. In memory it takes several times as much."""

KEPT_FOOTER_BYTES = 16 << 20
"""Number of bytes of footers, as they are in the files, that are kept. Others are read again before their rows."""

MAX_THRIFT_ITEMS = 1_000_000
"""Largest number of items of a list in a footer, which are allocated before they are read."""

FOOTER_THREADS = 32
"""Number of footers that are read at the same time: a thousand at 50 ms each take two seconds."""

PIECE_BYTES = 4 << 20
"""Number of bytes of one column in one request, so that memory does not grow with the size of a row group."""

_MAGIC, _ENCRYPTED_MAGIC = b"PAR1", b"PARE"

# pyarrow's own pool does not return memory: on large row groups it would hold 35 MB while the chunk is computed.
pa.set_memory_pool(pa.system_memory_pool())


class Span(NamedTuple):
    """Where a column of a row group lies in its file."""

    start: int
    end: int
    raw_bytes: int
    """Size in bytes without compression."""


@dataclass(frozen=True, eq=False)
class Footer:
    """What a file says of its rows."""

    source: ByteSource
    rows: int
    group_rows: tuple[int, ...]
    """Number of rows of each row group."""
    schema: pa.Schema
    kept: parquet.FileMetaData | None
    """What pyarrow made of the footer, None for a file whose footer is read again."""


def read_footers(sources: Sequence[ByteSource]) -> list[Footer]:
    """Return the footers of the files, in their order. Little more than the footers is read.

    Raises ManifestError for a file that is not Parquet, is encrypted, or contradicts itself.
    """
    if len(sources) == 1:
        return [_read_footer(sources[0], kept_bytes=KEPT_FOOTER_BYTES)]
    with ThreadPoolExecutor(min(FOOTER_THREADS, len(sources)), thread_name_prefix="footers") as threads:
        kept_bytes = KEPT_FOOTER_BYTES // len(sources)
        found = [threads.submit(_read_footer, source, kept_bytes=kept_bytes) for source in sources]
        try:
            return [footer.result() for footer in found]
        finally:
            threads.shutdown(cancel_futures=True)


def _read_footer(source: ByteSource, *, kept_bytes: int) -> Footer:
    with parquet_errors(source):
        metadata, schema = _metadata(source)
    groups = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    if min(groups, default=0) < 0 or metadata.num_rows != sum(groups):
        raise ManifestError(
            f"{source.name} is damaged: its footer counts {metadata.num_rows} rows, and {sum(groups)} in its row groups"
        )
    kept = metadata if metadata.serialized_size <= kept_bytes else None
    return Footer(source, metadata.num_rows, groups, schema, kept)


def _metadata(source: ByteSource) -> tuple[parquet.FileMetaData, pa.Schema]:
    tail = source.read(max(0, source.size - TAIL_BYTES), min(source.size, TAIL_BYTES))
    if tail[-4:] == _ENCRYPTED_MAGIC:
        raise ManifestError(f"{source.name} is encrypted; write it without encryption")
    length = int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] != _MAGIC or not 0 < length <= source.size - 12:
        raise ValueError("it does not end with a footer of Parquet")
    if length > MAX_FOOTER_BYTES:
        raise ManifestError(
            f"{source.name} has a footer of {length:,} bytes, the limit is {MAX_FOOTER_BYTES:,}; write it with larger "
            "row groups or fewer columns"
        )
    missing = length + 8 - len(tail)
    if missing > 0:
        tail = source.read(source.size - 8 - length, missing) + tail
    file = parquet.ParquetFile(
        pa.BufferReader(_MAGIC + tail[-8 - length :]), thrift_container_size_limit=min(MAX_THRIFT_ITEMS, length)
    )
    return file.metadata, file.schema_arrow


@lru_cache(maxsize=4)
def _metadata_again(footer: Footer) -> parquet.FileMetaData:
    """Return what pyarrow makes of the footer of a file whose rows are read now."""
    again = _read_footer(footer.source, kept_bytes=MAX_FOOTER_BYTES)
    if again.kept is None or again.group_rows != footer.group_rows or not again.schema.equals(footer.schema):
        raise SourceUnavailable(f"{footer.source.name} changed while it was read; a run needs a manifest that does not")
    return again.kept


class OpenParquet:
    """A file whose rows are read."""

    def __init__(self, footer: Footer, *, ahead: ReadAhead | None = None) -> None:
        """`ahead` holds the columns of which the spans are given to `read`."""
        self._source, self._ahead = footer.source, ahead
        self._group_rows = footer.group_rows
        self._metadata = footer.kept or _metadata_again(footer)

    def span(self, group: int, column: str) -> Span:
        """Return where a column lies. Raises ManifestError if that is not within the file."""
        names = self._metadata.schema
        leaf = next(
            leaf
            for leaf in range(self._metadata.num_columns)
            if (path := names.column(leaf).path) == column or path.startswith(f"{column}.")
        )
        self._check_column(group, column)
        found = self._metadata.row_group(group).column(leaf)
        start = found.data_page_offset
        if found.has_dictionary_page and found.dictionary_page_offset is not None:
            start = min(start, found.dictionary_page_offset)
        size, raw_bytes = found.total_compressed_size, found.total_uncompressed_size
        values, rows = found.num_values, self._group_rows[group]
        is_flat = not names.column(leaf).max_repetition_level
        if start < len(_MAGIC) or size < 0 or start + size > self._source.size - 8 or (is_flat and values != rows):
            raise ManifestError(
                f"{self._source.name} is damaged: by its footer, the column {column} of row group {group} has {values} "
                f"values for {rows} rows, in {size} bytes from byte {start} on, and the file has {self._source.size}"
            )
        return Span(start, start + size, max(raw_bytes, size))

    def _check_column(self, group: int, column: str) -> None:
        """Raise ManifestError if pyarrow finds fault with the footer's entry of a column.

        The same fault would abort the program where Python asks for the entry itself.
        """
        probe = _Probe(self._source.size)
        with parquet_errors(self._source):
            try:
                next(self._opened(probe).iter_batches(1, row_groups=[group], columns=[column], use_threads=False), None)
            except (pa.ArrowException, OSError, ValueError):
                if not probe.was_read:
                    raise

    def _opened(self, file: SeekableFile) -> parquet.ParquetFile:
        # With pre_buffer, pyarrow would hold a whole row group and fetch it from its own threads.
        return parquet.ParquetFile(
            pa.PythonFile(file, mode="r"), metadata=self._metadata, pre_buffer=False, buffer_size=PIECE_BYTES
        )

    def batches(
        self, group: int, columns: Sequence[str], *, batch_rows: int, stop: int, span: Span | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the batches of a row group that hold its rows before `stop`, with the number of their first row.

        Raises ManifestError when there are fewer rows, or a batch cannot be read.
        """
        first = 0
        with parquet_errors(self._source):
            file = self._opened(_SourceFile(self._source, self._ahead, span))
            for batch in file.iter_batches(
                batch_rows, row_groups=[group], columns=list(dict.fromkeys(columns)), use_threads=False
            ):
                yield first, batch
                first += batch.num_rows
                if first >= stop:
                    return
        if first < stop:
            raise ManifestError(
                f"{self._source.name} is damaged: row group {group} holds {first} rows, and {self._group_rows[group]} "
                "by the footer"
            )


def column_of(batch: pa.RecordBatch, path: str) -> pa.Array:
    """Return a column of a batch, or the field of a struct such as `image.path`."""
    if path in batch.schema.names:
        return batch.column(path)
    struct, _, name = path.rpartition(".")
    column = batch.column(struct)
    return column.flatten()[[field.name for field in column.type].index(name)]


class _Probe(SeekableFile):
    """A file that notes whether it is read, and has nothing to read."""

    was_read = False

    def read(self, _: int = -1) -> bytes:
        self.was_read = True
        return b""


class _SourceFile(SeekableFile):
    """A byte source as a file for pyarrow, which reads with `read`. The bytes of `span` are read ahead."""

    def __init__(self, source: ByteSource, ahead: ReadAhead | None, span: Span | None) -> None:
        super().__init__(source.size)
        self._source = source
        self._ahead, self._span = ahead, span

    def read(self, size: int = -1) -> Any:  # noqa: ANN401 - bytes or a bytearray
        start, rest = self._position, max(0, self.size - self._position)
        size = rest if size < 0 else min(size, rest)
        self._position += size
        span = self._span
        if self._ahead is not None and span is not None and span.start <= start and start + size <= span.end:
            return self._ahead.read(self._source, start, size)
        return self._source.read(start, size)


@contextmanager
def parquet_errors(source: ByteSource) -> Iterator[None]:
    """Turn the errors of a file that pyarrow cannot read into ManifestError."""
    try:
        yield
    except MemoryError:  # pyarrow's own MemoryError is an ArrowException too
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(
            f"{source.name} is not a Parquet file, or is damaged: {' '.join(str(error).split())}"
        ) from error
