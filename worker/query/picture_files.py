"""Reads pictures inside tar and Parquet files of this machine.

A tar's headers are read once, for all pictures in it; a Parquet file's footer too. The files that were needed last are
remembered, until they change.
"""

from __future__ import annotations

import asyncio
import os
from array import array
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from common.errors import EmbedderError, QueryRefused
from common.settings import read_settings
from worker.manifest.excerpts import excerpt
from worker.manifest.places.local_source import FileVersion, LocalSource
from worker.manifest.raw_rows import RawRow, UnreadableRow
from worker.manifest.tar.rows import MAX_ROWS
from worker.manifest.tar.shard import ChunkLimit, Shard
from worker.query.picture_places import find_copy
from worker.rows import ByteRange, ImageFailed
from worker.settings import ManifestSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from worker.manifest.parquet.rows import ParquetRows
    from worker.query.picture_places import PicturePlace

KEPT_BYTES = 128 << 20
"""Number of bytes of what is remembered of files: the members of 500 tars of 10,000 pictures."""

PARQUET_BYTES = 4 << 20
"""Number of bytes that the footer of a Parquet file counts. Most take much less."""

KEPT_PROBLEMS = 1000
"""Number of members without a picture, such as links, whose problem is remembered for each tar."""

MAX_READ_BYTES = 512 << 20
"""Number of bytes of a column that are read for one picture. A row is found only behind the rows before it in its row
group."""


class PictureFiles:
    """Finds pictures in files, in a thread of its own. To be used in one event loop."""

    def __init__(self, *, max_image_bytes: int) -> None:
        self._max_image_bytes = max_image_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="picture-files")
        self._stop = Event()
        self._opened: OrderedDict[tuple[str, str, FileVersion], _Tar | _Parquet] = OrderedDict()

    def close(self) -> None:
        self._stop.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def find(self, place: PicturePlace, folder: Path) -> ByteRange | bytes | None:
        """Return where the picture's bytes lie, or the bytes. None: a file in the folder has this very name.

        Raises QueryRefused where the file has no such picture, or cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find, place, folder)

    def _find(self, place: PicturePlace, folder: Path) -> ByteRange | bytes | None:
        if not place.is_remote and os.path.isfile(folder / place.url):  # noqa: PTH113 - it takes every name
            return None
        try:
            return self._open(place, find_copy(place, folder)).find(place)
        except ImageFailed as failed:
            raise QueryRefused(f"{failed.reason} ({failed.detail})") from failed
        except QueryRefused:
            raise
        except EmbedderError as error:
            raise QueryRefused(str(error)) from error
        except OSError as error:
            raise QueryRefused(f"{place.name} cannot be read: {error.strerror}") from error

    def _open(self, place: PicturePlace, path: Path) -> _Tar | _Parquet:
        status = path.stat()
        version = FileVersion(status.st_size, status.st_mtime_ns)
        key = (str(path), place.file, version)
        found = self._opened.pop(key, None)
        if found is None:
            # The rows of a file are called as the result calls them.
            source = LocalSource(path, name=place.file, listed=version)
            if place.kind == "tar":
                found = _Tar(source, self._stop)
            else:
                found = _Parquet(source, max_image_bytes=self._max_image_bytes)
        self._opened[key] = found
        while len(self._opened) > 1 and sum(each.kept_bytes for each in self._opened.values()) > KEPT_BYTES:
            self._opened.popitem(last=False)
        return found


class _Tar:
    """The pictures of a tar by their URLs."""

    def __init__(self, source: LocalSource, stop: Event) -> None:
        self._source = source
        self._problems: dict[str, str] = {}
        limit = ChunkLimit(MAX_ROWS, [source])
        limit.stop = stop
        keys, firsts, lengths = array("q"), array("q"), array("q")
        row = None
        for row in Shard(source, limit).rows():
            if isinstance(row, UnreadableRow):
                if len(self._problems) < KEPT_PROBLEMS:
                    self._problems[row.url] = row.problem
            elif isinstance(row, RawRow) and row.held is not None:
                keys.append(hash(row.fields.url))
                firsts.append(row.held.offset)
                lengths.append(row.held.length)
        self._damage = row.problem if isinstance(row, UnreadableRow) and not row.id else ""
        """Why no member behind the last one can be read, an empty text for a tar without damage."""
        # Hashes of 64 bits, because the names themselves would take ten times as much memory.
        table = np.array([keys, firsts, lengths], np.int64)
        self._table: NDArray[np.int64] = table[:, np.argsort(table[0], kind="stable")]  # (3, pictures)

    @property
    def kept_bytes(self) -> int:
        return self._table.nbytes + 4096

    def find(self, place: PicturePlace) -> ByteRange:
        """Return where a member's bytes lie. Of several members with the same name, it is the first."""
        keys, firsts, lengths = self._table
        key = hash(place.url)
        number = int(np.searchsorted(keys, key))
        if number < len(keys) and keys[number] == key:
            return ByteRange(self._source.uri, int(firsts[number]), int(lengths[number]), self._source.tag)
        problem = self._problems.get(place.url, self._damage)
        raise QueryRefused(
            f"{place.name} has no picture {excerpt(place.entry)}{f' that can be read: {problem}' if problem else ''}"
        )


class _Parquet:
    """The images in a Parquet file."""

    kept_bytes = PARQUET_BYTES

    def __init__(self, source: LocalSource, *, max_image_bytes: int) -> None:
        # Imported here: pyarrow takes 30 MB of memory.
        from worker.manifest.parquet.rows import ParquetRows  # noqa: PLC0415

        settings = read_settings(ManifestSettings, manifest_uri=source.uri, sources="bytes")
        self._rows: ParquetRows = ParquetRows([source], settings)
        self._max_image_bytes = max_image_bytes

    def find(self, place: PicturePlace) -> bytes:
        number, rows = int(place.entry), self._rows
        if rows.columns.image is None:
            raise QueryRefused(
                f"{place.name} has no column that clearly holds images; name the column in EMBEDDER_IMAGE_COLUMN"
            )
        if number >= (total := rows.count_rows().rows):
            raise QueryRefused(f"{place.name} has {total:,} rows, and no row {number:,} (the first is 0)")
        if (needed := rows.bytes_to(number)) > MAX_READ_BYTES:
            raise QueryRefused(
                f"row {number:,} of {place.name} lies behind about {needed >> 20:,} MiB of its row group, and "
                f"{MAX_READ_BYTES >> 20} MiB are read for a picture; write the file with smaller row groups"
            )
        with closing(rows.images(_one(number), max_bytes=self._max_image_bytes)) as images:
            found = next(images)
        if isinstance(found, ImageFailed):
            raise found
        return bytes(found)


def _one(number: int) -> Sequence[int]:
    return range(number, number + 1)
