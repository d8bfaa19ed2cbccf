"""Finds pictures inside the tar and Parquet files of a folder.

A tar's headers are read once, for all pictures in it; a Parquet file's footer too. The files that were needed last are
remembered, until they change.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, TypeVar

from common.errors import EmbedderError, QueryRefused
from worker.manifest.places.local_source import FileVersion, LocalSource
from worker.query.opened_files import OpenedNames, OpenedParquet, OpenedTar
from worker.query.picture_places import find_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from worker.query.picture_places import PicturePlace
    from worker.rows import ByteRange

KEPT_BYTES = 128 << 20
"""Number of bytes of what is remembered of files: the members of 500 tars of 10,000 pictures."""

MAX_FILES = 10_000
"""Number of Parquet files in a folder among whose rows a name is looked for."""

Opened = TypeVar("Opened", OpenedTar, OpenedParquet, OpenedNames)


class PictureFiles:
    """Looks into files, in a thread of its own. To be used in one event loop.

    Its methods raise QueryRefused where a file cannot be read, and ImageFailed for a row without an image.
    """

    def __init__(self, *, max_image_bytes: int) -> None:
        self._max_image_bytes = max_image_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="picture-files")
        self._stop = Event()
        self._opened: OrderedDict[Hashable, OpenedTar | OpenedParquet | OpenedNames] = OrderedDict()

    def close(self) -> None:
        self._stop.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def find(self, place: PicturePlace, folder: Path) -> ByteRange | bytes | None:
        """Return where the picture's bytes lie, or the bytes. None: a file in the folder has this very name.

        Raises QueryRefused also where the file has no such picture.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find, place, folder)

    async def find_named(self, name: str, folder: Path) -> bytes | None:
        """Return the image of the row of this name in the Parquet files that lie in the folder, None if none has it.

        Raises QueryRefused also where several rows have the name.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find_named, name, folder)

    def _find(self, place: PicturePlace, folder: Path) -> ByteRange | bytes | None:
        if not place.is_remote and os.path.isfile(folder / place.url):  # noqa: PTH113 - it takes every name
            return None
        with _refusals(place.name):
            path = find_copy(place, folder)
            # The rows of a file are called as the result calls them.
            source = LocalSource(path, name=place.file, listed=_version(path.stat()))
            key = (source.uri, source.name, source.version)
            if place.kind == "tar":
                return self._kept(key, lambda: OpenedTar(source, self._stop)).find(place)
            return self._kept(key, lambda: OpenedParquet(source, max_image_bytes=self._max_image_bytes)).find(place)

    def _find_named(self, name: str, folder: Path) -> bytes | None:
        with _refusals(str(folder)):
            sources = _parquet_files(folder)
            if not sources:
                return None
            key = tuple((source.uri, source.version) for source in sources)
            names = self._kept(
                key, lambda: OpenedNames(sources, max_image_bytes=self._max_image_bytes, stop=self._stop)
            )
            return names.find(name)

    def _kept(self, key: Hashable, opened: Callable[[], Opened]) -> Opened:
        found = self._opened.pop(key, None) or opened()
        self._opened[key] = found
        while len(self._opened) > 1 and sum(each.kept_bytes for each in self._opened.values()) > KEPT_BYTES:
            self._opened.popitem(last=False)
        return found  # type: ignore[return-value]  # the key tells the kind


def _parquet_files(folder: Path) -> list[LocalSource]:
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name.lower().endswith((".parquet", ".pq")) and entry.is_file()]
    found.sort(key=lambda entry: entry.name)
    return [
        LocalSource(Path(entry.path), name=entry.name, listed=_version(entry.stat())) for entry in found[:MAX_FILES]
    ]


def _version(status: os.stat_result) -> FileVersion:
    return FileVersion(status.st_size, status.st_mtime_ns)


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Raise the errors of files as QueryRefused."""
    try:
        yield
    except QueryRefused:
        raise
    except EmbedderError as error:
        raise QueryRefused(str(error)) from error
    except OSError as error:
        raise QueryRefused(f"{name} cannot be read: {error.strerror}") from error
