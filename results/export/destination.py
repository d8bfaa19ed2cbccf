"""Where an export appears: a file or a folder of this machine, or in a bucket. It appears whole, at the end."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from common.errors import ConfigError, StoreUnavailable
from common.logs import printable, redact_url
from common.process.leftovers import held, remove_if_left_over
from common.process.resources import temporary_folder, written_file
from common.store import open_store
from common.store.contract import ObjectExists
from results.export.progress import Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager

    from common.store.contract import Store
    from results.export.progress import Progress

FACTS_FILE = "_export.json"
"""What an export that is a folder says of itself. Readers of Parquet folders pass over names with an underscore."""

_SUFFIX = ".part"
_PART = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{8}}{re.escape(_SUFFIX)}")

_NAMES = re.compile(
    r"_export\.json|metadata\.parquet|embeddings(-[0-9]{5,})?\.parquet|embeddings\.npy|index\.(faiss|usearch)"
)
"""The names of the files of an export in a folder."""

UPLOAD_BYTES = 64 << 20
"""Size of a part of an upload in bytes. S3 takes 10,000 parts, so a file may have 670 GB."""


class Destination(Protocol):
    name: str
    """The destination, for people."""

    def check_is_free(self) -> None:
        """Raise ConfigError when there is something that the export would not replace."""

    def work_folder(self) -> AbstractContextManager[Path]:
        """Give a new folder in which the export is made. It is removed after the block."""

    def publish(self, folder: Path, progress: Progress) -> None:
        """Make what is in the folder the export. Raises ConfigError as `check_is_free` does."""


def open_destination(text: str, *, is_file: bool, may_replace: bool) -> Destination:
    """Return the destination: a path, or s3://bucket/prefix."""
    if text.startswith("s3://"):
        return _Bucket(text, is_file=is_file, may_replace=may_replace)
    path = Path(text.removeprefix("file://")).expanduser()
    # A link stays, and what it leads to is written or replaced.
    return _Local(Path(os.path.realpath(path)), text, is_file=is_file, may_replace=may_replace)


class _Local:
    """A file or a folder. It is made beside its place, and renamed at the end."""

    def __init__(self, path: Path, name: str, *, is_file: bool, may_replace: bool) -> None:
        self.name = name
        self._path, self._is_file, self._may_replace = path, is_file, may_replace

    def check_is_free(self) -> None:
        path = self._path
        if not os.path.lexists(path):
            return
        if not self._is_file and path.is_dir() and not any(path.iterdir()):
            return
        if not self._may_replace:
            raise _taken(self.name)
        if self._is_file and path.is_dir():
            raise ConfigError(f"{self.name} is a folder, and this export is one file; choose another DEST")
        if not self._is_file:
            _check_is_export({each.name for each in path.iterdir()} if path.is_dir() else set(), self.name)

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        place, name = self._path.parent, self._path.name

        def new() -> Path:
            part = place / f".{name}.{secrets.token_hex(4)}{_SUFFIX}"
            part.mkdir()
            return part

        with _destination_errors(self.name, place):
            place.mkdir(parents=True, exist_ok=True)
            for other in place.glob(f".*{_SUFFIX}"):
                if (match := _PART.fullmatch(other.name)) and match["name"] == name:
                    remove_if_left_over(other)
            with held(new) as folder:
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, progress: Progress) -> None:  # noqa: ARG002 - renamed at once
        self.check_is_free()
        for path in folder.iterdir():
            _sync(path)
        if self._is_file:
            (made,) = folder.iterdir()
            _put_file(made, self._path, may_replace=self._may_replace, name=self.name)
        else:
            self._put_folder(folder)
        _sync_folder(self._path.parent)

    def _put_folder(self, folder: Path) -> None:
        _sync_folder(folder)
        earlier = folder.with_name(f".{self._path.name}.{secrets.token_hex(4)}{_SUFFIX}")
        # A folder cannot be replaced in one step. A kill between the two renames costs the earlier export alone.
        if self._path.is_dir() and any(self._path.iterdir()):
            self._path.rename(earlier)
        try:
            folder.rename(self._path)
        except OSError as error:
            if earlier.exists():
                earlier.rename(self._path)
            raise _taken(self.name) from error
        shutil.rmtree(earlier, ignore_errors=True)


def _put_file(made: Path, path: Path, *, may_replace: bool, name: str) -> None:
    if may_replace:
        made.replace(path)
        return
    try:
        os.link(made, path)
    except FileExistsError as error:
        raise _taken(name) from error
    except OSError:  # some network file systems have no hard links
        if path.exists():
            raise _taken(name) from None
        made.rename(path)


class _Bucket:
    """A prefix or an object of a bucket. It is made in TMPDIR and uploaded at the end, the facts last."""

    def __init__(self, uri: str, *, is_file: bool, may_replace: bool) -> None:
        self.name = redact_url(uri)
        self._is_file, self._may_replace = is_file, may_replace
        place, _, key = uri.rstrip("/").rpartition("/")
        self._store: Store = open_store(place if is_file else uri)
        self._key = key

    def check_is_free(self) -> None:
        if self._is_file:
            if not self._may_replace and self._store.stat(self._key) is not None:
                raise _taken(self.name)
            return
        keys = {found.key for found in self._store.list("")}
        if keys and not self._may_replace:
            raise _taken(self.name)
        if keys:
            # An upload that was killed has left files without the facts.
            _check_is_export(keys | {FACTS_FILE}, self.name)

    def work_folder(self) -> AbstractContextManager[Path]:
        return temporary_folder("export")

    def publish(self, folder: Path, progress: Progress) -> None:
        self.check_is_free()
        paths = sorted(folder.iterdir(), key=lambda path: (path.name == FACTS_FILE, path.name))
        progress.begin(Step.UPLOADING, sum(path.stat().st_size for path in paths))
        if self._is_file:
            self._upload(paths[0], self._key, progress)
            return
        earlier = {found.key for found in self._store.list("")}
        # Without its facts a prefix is not an export, so nobody takes a half of it for one.
        self._store.delete(earlier & {FACTS_FILE})
        for path in paths[:-1]:
            self._upload(path, path.name, progress)
        self._store.delete(earlier - {path.name for path in paths} - {FACTS_FILE})
        self._upload(paths[-1], paths[-1].name, progress)

    def _upload(self, path: Path, key: str, progress: Progress) -> None:
        size = path.stat().st_size
        replacing = self._store.stat(key) if self._may_replace else None
        try:
            if size <= UPLOAD_BYTES:
                self._store.put_file(key, path, overwrite=self._may_replace)
                progress.advance(size)
                return
            with path.open("rb") as file, self._store.assemble(key, size=size, replacing=replacing) as assembly:
                for number, offset in enumerate(range(0, size, UPLOAD_BYTES), 1):
                    data = file.read(UPLOAD_BYTES)
                    assembly.upload(number, offset, data)
                    progress.advance(len(data))
                stored = assembly.publish()
            if stored.size != size:
                raise StoreUnavailable(
                    f"{self._store.location(key)} has {stored.size} bytes, expected {size}; export again"
                )
        except ObjectExists as error:
            raise _taken(self.name) from error


def _taken(name: str) -> ConfigError:
    return ConfigError(f"{name} exists; choose another DEST, or replace it with --overwrite")


def _check_is_export(names: AbstractSet[str], name: str) -> None:
    """Raise ConfigError unless these are the files of an export, and no others: replacing them deletes them."""
    if FACTS_FILE not in names:
        raise ConfigError(
            f"{name} is not an export in a folder: it has no {FACTS_FILE}, so it is not replaced; choose another DEST"
        )
    if foreign := sorted(each for each in names if not _NAMES.fullmatch(each)):
        raise ConfigError(
            f"{name} holds more than an export, {printable(foreign[0])} for one, so it is not replaced; choose another "
            "DEST"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # not every file system supports it
        _sync(path)


@contextmanager
def _destination_errors(name: str, place: Path) -> Iterator[None]:
    try:
        with written_file(place):
            yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise ConfigError(
            f"{name} cannot be written: {error.filename or place}: {error.strerror}; choose another DEST, or give this "
            "user the permission to write"
        ) from error
