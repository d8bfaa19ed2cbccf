"""A run in a folder of this machine, or of a volume that all pods mount."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from common.errors import StoreAccessDenied, StoreUnavailable
from common.process.leftovers import held, remove_if_left_over
from common.process.resources import describe_error
from common.store.contract import (
    AssemblyGone,
    ObjectExists,
    ObjectReplaced,
    ObjectStat,
    PartLimits,
    StoreAbilities,
    check_length,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PART_SUFFIX = ".part"
"""The ending of the name of a file that is not yet whole. Such a file is neither listed nor read."""

_PART = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{8}}{re.escape(PART_SUFFIX)}")

PROBE_KEY = "access"
"""The key of the file that shows the permission to write. It never becomes an object."""

PROBE_BYTES = 4096
"""Size in bytes of that file: more than file systems keep beside the name, so that a full disk is noticed."""

_NO_COPY_RANGE = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
"""The errors of kernels and file systems that cannot copy a range of one file into another."""

COPY_BYTES = 4 << 20
"""The number of bytes that are read and written at a time if the kernel cannot copy them."""


class FolderStore:
    """See `contract.Store`."""

    part_limits = PartLimits(min_bytes=1, max_bytes=1 << 40, max_count=1 << 30)

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.root = Path(uri.removeprefix("file://")).expanduser()

    def location(self, key: str) -> str:
        return str(self.root / key)

    def check_access(self) -> StoreAbilities:
        with _file_errors(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                with self.temporary(PROBE_KEY) as probe:
                    probe.touch()
            except (PermissionError, FileExistsError, NotADirectoryError) as error:
                raise StoreAccessDenied(
                    f"{self.root} cannot be written: {error.strerror}; choose another EMBEDDER_RUN_URI, or give this "
                    "user the permission to write"
                ) from error
        return StoreAbilities(store="folder", conditional_writes=True, batch_delete=False, may_delete=True)

    def check_room(self) -> None:
        """Raise StoreUnavailable when the disk is full, or does not keep what is written. Leaves nothing behind.

        It is no part of `check_access`, because a program whose work is finished needs no room.
        """
        with _file_errors(self.root), self.temporary(PROBE_KEY) as probe:
            _write_and_read_back(probe)

    def stat(self, key: str) -> ObjectStat | None:
        with _file_errors(self.root / key):
            try:
                found = (self.root / key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return _object_stat(key, found)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        # A run has up to 100,000 chunks, and a gate lists them every half a minute: the folder is read in one go.
        folder = prefix.rpartition("/")[0]
        with _file_errors(self.root):
            yield from sorted(each for each in _files(self.root / folder, folder) if each.key.startswith(prefix))

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with _file_errors(self.root / key), (self.root / key).open("rb") as file:
            if length is None:
                length = max(0, os.fstat(file.fileno()).st_size - start)
            file.seek(start)
            return check_length(self.location(key), file.read(length), length)

    def put_file(
        self, key: str, path: Path, *, overwrite: bool = True, replacing: ObjectStat | None = None
    ) -> ObjectStat:
        with _file_errors(self.root / key), self.temporary(key) as part:
            digest = hashlib.sha256()
            with path.open("rb") as source, part.open("wb") as target:
                while block := source.read(1 << 20):
                    digest.update(block)
                    target.write(block)
                target.flush()
                os.fsync(target.fileno())
            return self.publish(key, part, digest=digest.hexdigest(), overwrite=overwrite, replacing=replacing)

    def put_bytes(
        self, key: str, data: bytes, *, overwrite: bool = True, replacing: ObjectStat | None = None
    ) -> ObjectStat:
        with _file_errors(self.root / key), self.temporary(key) as part:
            with part.open("wb") as target:
                target.write(data)
                target.flush()
                os.fsync(target.fileno())
            digest = hashlib.sha256(data).hexdigest()
            return self.publish(key, part, digest=digest, overwrite=overwrite, replacing=replacing)

    def delete(self, keys: Iterable[str]) -> None:
        folders = set()
        for key in keys:
            with _file_errors(self.root / key):
                (self.root / key).unlink(missing_ok=True)
            folders |= set(Path(key).parents) - {Path()}
        self._remove_empty(folders)

    def _remove_empty(self, folders: Iterable[Path]) -> None:
        # Object storage keeps no empty prefix either. The deepest folder goes first; rmdir refuses one that is in use.
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):
                (self.root / folder).rmdir()

    def open(self, key: str, size: int) -> BinaryIO:  # noqa: ARG002 - the file has its size
        with _file_errors(self.root / key):
            return (self.root / key).open("rb")

    @contextmanager
    def assemble(
        self,
        key: str,
        *,
        size: int,
        replacing: ObjectStat | None,
    ) -> Iterator[FolderAssembly]:
        with (
            _file_errors(self.root / key),
            self.temporary(key) as part,
            FolderAssembly(self, key, part, size, replacing=replacing) as begun,
        ):
            yield begun

    def abort_assemblies(self, key: str) -> int:
        with _file_errors(self.root / key):
            parts = self._parts([key])
            for part in parts:
                part.unlink(missing_ok=True)
        return len(parts)

    def clear_up(self, keys: Iterable[str]) -> int:
        with _file_errors(self.root):
            removed = [part for part in self._parts([PROBE_KEY, *keys]) if remove_if_left_over(part)]
        self._remove_empty({part.parent.relative_to(self.root) for part in removed} - {Path()})
        return len(removed)

    def _parts(self, keys: Iterable[str]) -> Sequence[Path]:
        """Return the unfinished files of these objects, also those whose program died."""
        targets = {self.root / key for key in keys}
        return [
            part
            for folder in {target.parent for target in targets}
            for part in folder.glob(f".*{PART_SUFFIX}")
            if (match := _PART.fullmatch(part.name)) and folder / match["name"] in targets
        ]

    @contextmanager
    def temporary(self, key: str) -> Iterator[Path]:
        """Give a new file beside the object's, to be written and then published. It is removed after the block."""
        target = self.root / key

        def new() -> Path:
            part = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
            while True:
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # another program just removed the empty folder
                    part.touch(exist_ok=False)
                    return part

        # Before every write: a program that is killed again and again would fill the volume.
        for left_over in self._parts([key]):
            remove_if_left_over(left_over)
        with held(new) as part:
            try:
                yield part
            finally:
                part.unlink(missing_ok=True)

    def publish(
        self, key: str, part: Path, *, digest: str, overwrite: bool, replacing: ObjectStat | None
    ) -> ObjectStat:
        """Check that the file holds the bytes that were written, and make it the object in one step."""
        written = _sha256(part)
        if written != digest:
            raise StoreUnavailable(
                f"{part} reads back with the SHA-256 {written}, expected {digest}; the disk is faulty, replace it"
            )
        if not overwrite:
            return self.put_in_place(key, part, replacing=replacing)
        part.replace(self.root / key)
        return self._settled(key)

    def put_in_place(self, key: str, part: Path, *, replacing: ObjectStat | None) -> ObjectStat:
        """Make the file the object. Raises ObjectExists when an object other than `replacing` is there."""
        target = self.root / key
        if replacing is None:
            _link(part, target)
        else:
            with _locked(target):
                if self.stat(key) != replacing:
                    raise ObjectExists(str(target))
                part.replace(target)
        return self._settled(key)

    def _settled(self, key: str) -> ObjectStat:
        """Make sure that the name of a new object is on the disk, and return the object."""
        _sync_folder((self.root / key).parent)
        found = self.stat(key)
        if found is None:
            raise ObjectReplaced(f"{self.location(key)} is absent right after it was written")
        return found


class FolderAssembly:
    """A file of the whole size, into which the parts are written at their offsets."""

    is_readable = True

    def __init__(self, store: FolderStore, key: str, part: Path, size: int, *, replacing: ObjectStat | None) -> None:
        self._store, self._key, self._part, self._replacing = store, key, part, replacing
        self._file = part.open("r+b", buffering=0)
        self._file.truncate(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def upload(self, number: int, offset: int, data: bytes | bytearray) -> None:  # noqa: ARG002 - the offset is enough
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def copy(self, number: int, offset: int, source: ObjectStat, start: int, length: int) -> None:  # noqa: ARG002
        path = self._store.root / source.key
        with path.open("rb", buffering=0) as file:
            while length:
                copied = self._copy_some(file.fileno(), start, offset, length)
                if not copied:
                    raise StoreUnavailable(f"{path} ends {length} bytes too early; it was replaced while it was copied")
                start, offset, length = start + copied, offset + copied, length - copied

    def _copy_some(self, source: int, start: int, offset: int, length: int) -> int:
        try:
            return os.copy_file_range(source, self._file.fileno(), min(length, 1 << 30), start, offset)
        except AttributeError:  # this system has no such call
            pass
        except OSError as error:
            if error.errno not in _NO_COPY_RANGE:
                raise
        data = os.pread(source, min(length, COPY_BYTES), start)
        self.upload(0, offset, data)
        return len(data)

    def read(self, start: int, length: int) -> bytes:
        return check_length(str(self._part), os.pread(self._file.fileno(), length, start), length)

    def publish(self) -> ObjectStat:
        os.fsync(self._file.fileno())
        try:
            return self._store.put_in_place(self._key, self._part, replacing=self._replacing)
        except FileNotFoundError as error:
            raise AssemblyGone(str(self._part)) from error


def _write_and_read_back(path: Path) -> None:
    """Raise an OSError when the disk is full, and StoreUnavailable when it does not keep what is written."""
    data = secrets.token_bytes(PROBE_BYTES)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if path.read_bytes() != data:
        raise StoreUnavailable(f"{path} reads back with other bytes than were written; the disk is faulty, replace it")


def _link(part: Path, target: Path) -> None:
    try:
        os.link(part, target)
    except FileExistsError as error:
        raise ObjectExists(str(target)) from error
    except OSError:
        # Some network file systems have no hard links. Then the check and the rename are two steps, and a second writer
        # in between replaces a whole file by an equal one.
        if target.exists():
            raise ObjectExists(str(target)) from None
        part.rename(target)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let no other program of this kind replace the file in the block, where the file system knows locks.

    Raises ObjectExists when the file is absent.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise ObjectExists(str(path)) from None
    try:
        with suppress(OSError):  # a second writer between the check and the rename is then overwritten
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system supports it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _object_stat(key: str, found: os.stat_result) -> ObjectStat:
    return ObjectStat(key, found.st_size, f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}")


def _files(folder: Path, key: str) -> Iterator[ObjectStat]:
    """Yield the whole files in the folder and in those below it. `key` is the folder's own key."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            below = f"{key}/{entry.name}" if key else entry.name
            # A file may be deleted or replaced while the folder is read.
            with suppress(FileNotFoundError):
                if entry.is_dir():
                    if not entry.is_symlink():
                        yield from _files(folder / entry.name, below)
                elif not entry.name.endswith(PART_SUFFIX):
                    yield _object_stat(below, entry.stat())


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise StoreAccessDenied(
            f"{error.filename or path}: {error.strerror}; give this user the permission to read and write the folder"
        ) from error
    except OSError as error:
        raise StoreUnavailable(describe_error(error, path)) from error
