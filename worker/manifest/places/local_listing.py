"""The files of this machine that a pattern means."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from common.errors import ManifestError, SourceUnavailable, StoreAccessDenied
from worker.manifest.places.byte_source import MANIFEST_SETTING
from worker.manifest.places.listed_file import ListedFile, Listing, refuse_more

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.manifest.places.glob_pattern import GlobPattern


def list_local(pattern: GlobPattern, *, most: int) -> Listing:
    """Return the files that the pattern means, else those in the folders that it means. Links are followed.

    Raises ManifestError above `most` files and folders and for links in a circle, StoreAccessDenied for a folder that
    may not be read, and SourceUnavailable when the disk does not answer.
    """
    base = real_path(pattern.folder).rstrip("/") + "/"
    direct: list[ListedFile] = []
    in_folders: list[ListedFile] = []
    hidden: list[str] = []
    entry_count = 0
    # Each folder's path below the pattern's folder, with the devices and inodes of the folders that it lies in.
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        below, above = waiting.pop()
        folder = pattern.folder + below
        with _errors_of(folder), os.scandir(folder) as entries:
            status = Path(folder).stat()
            itself = (status.st_dev, status.st_ino)
            if itself in above:
                raise ManifestError(
                    f"{folder} is a link to a folder that it lies in, so there is no end of files; remove the link, or "
                    "give a folder without it"
                )
            for entry in entries:
                entry_count += 1
                if entry_count > most:
                    raise refuse_more(pattern.folder, most)
                path = below + entry.name
                is_folder = _is_folder(entry)
                if is_folder and pattern.may_be_in(path):
                    waiting.append((f"{path}/", above | {itself}))
                elif not is_folder and pattern.matches(path):
                    direct += _files(entry, base, path)
                elif not is_folder and pattern.has_above(path):
                    in_folders += _files(entry, base, path)
                elif pattern.hides(path, is_folder=is_folder):
                    hidden.append(base + path)
    return Listing(base, direct or in_folders, hidden)


def real_path(path: str) -> str:
    """Return the path with the links in its folders resolved, so that two names of a file are one."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)  # noqa: PTH118 - names need not be UTF-8


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle of links: no folder, and no file either
        return False


def _files(entry: os.DirEntry[str], base: str, path: str) -> list[ListedFile]:
    """Return the entry if it is a file, or a link whose file is absent. Pipes and devices are no files."""
    uri = base + path
    try:
        status = entry.stat()
    except OSError:
        return [ListedFile(uri, path, None, "")]
    return [ListedFile(uri, path, status.st_size, "", status.st_mtime_ns)] if S_ISREG(status.st_mode) else []


@contextmanager
def _errors_of(folder: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ManifestError(
            f"{folder} does not exist; is {MANIFEST_SETTING} right, and is the volume mounted?"
        ) from error
    except PermissionError as error:
        raise StoreAccessDenied(
            f"{folder} cannot be listed: {error.strerror}; allow the worker's user to read it"
        ) from error
    except OSError as error:
        raise SourceUnavailable(f"{folder}: {error.strerror}") from error
