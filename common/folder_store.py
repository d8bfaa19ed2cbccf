"""A run in a folder: of this machine, or of a volume that all pods mount."""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from common.errors import StoreAccessDenied, StoreUnavailable
from common.folder_assembly import FolderAssembly
from common.resources import sentence
from common.store import ObjectExists, ObjectStat, PartLimits, check_length

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PART_SUFFIX = ".part"
"""Of a file that is still being written, or was when its writer died; never listed, never read."""


class FolderStore:
    part_limits = PartLimits(min_bytes=1, max_bytes=1 << 40, max_count=1 << 30)

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.root = Path(uri.removeprefix("file://")).expanduser()

    def location(self, key: str) -> str:
        return str(self.root / key)

    def check_access(self) -> None:
        with _file_errors(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                with self.temporary("access") as probe:
                    probe.touch()
            except (PermissionError, FileExistsError, NotADirectoryError) as error:
                raise StoreAccessDenied(
                    f"{self.root} cannot be written: {error.strerror}; choose another "
                    "EMBEDDER_RUN_URI or give this user the folder"
                ) from error

    def stat(self, key: str) -> ObjectStat | None:
        with _file_errors(self.root / key):
            try:
                found = (self.root / key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return ObjectStat(key, found.st_size, f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}")

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        with _file_errors(self.root):
            for path in sorted(self.root.glob("**/*")):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not key.endswith(PART_SUFFIX) and path.is_file():
                    found = self.stat(key)
                    if found is not None:
                        yield found

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with _file_errors(self.root / key), (self.root / key).open("rb") as file:
            if length is None:
                length = max(0, os.fstat(file.fileno()).st_size - start)
            file.seek(start)
            return check_length(self.location(key), file.read(length), length)

    def put_file(self, key: str, path: Path, *, overwrite: bool = True) -> ObjectStat:
        with _file_errors(self.root / key), self.temporary(key) as part:
            digest = hashlib.sha256()
            with path.open("rb") as source, part.open("wb") as target:
                while block := source.read(1 << 20):
                    digest.update(block)
                    target.write(block)
                target.flush()
                os.fsync(target.fileno())
            return self.publish(key, part, digest=digest.hexdigest(), overwrite=overwrite)

    def put_bytes(self, key: str, data: bytes) -> ObjectStat:
        with _file_errors(self.root / key), self.temporary(key) as part:
            with part.open("wb") as target:
                target.write(data)
                target.flush()
                os.fsync(target.fileno())
            return self.publish(key, part, digest=hashlib.sha256(data).hexdigest(), overwrite=True)

    def delete(self, keys: Iterable[str]) -> None:
        folders = set()
        for key in keys:
            with _file_errors(self.root / key):
                (self.root / key).unlink(missing_ok=True)
            folders |= set(Path(key).parents) - {Path()}
        # As in object storage, no prefix is left behind by its last object. The deepest first; one in use stays.
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):
                (self.root / folder).rmdir()

    def open(self, key: str, size: int) -> BinaryIO:  # noqa: ARG002 - a file knows its size
        with _file_errors(self.root / key):
            return (self.root / key).open("rb")

    @contextmanager
    def assemble(
        self,
        key: str,
        *,
        size: int,
        replacing: ObjectStat | None,  # noqa: ARG002 - whatever is there, a rename replaces it whole
    ) -> Iterator[FolderAssembly]:
        with _file_errors(self.root / key), self.temporary(key) as part, FolderAssembly(self, key, part, size) as begun:
            yield begun

    def abort_assemblies(self, key: str) -> int:
        target = self.root / key
        with _file_errors(target):
            parts = list(target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}{PART_SUFFIX}"))
            for part in parts:
                part.unlink(missing_ok=True)
        return len(parts)

    def sync(self, key: str) -> None:
        """Make the name of an object as lasting as its content."""
        _sync_folder((self.root / key).parent)

    @contextmanager
    def temporary(self, key: str) -> Iterator[Path]:
        """Give the path of a file beside the key's, to be written and then published; it is gone afterwards."""
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)

    def publish(self, key: str, part: Path, *, digest: str, overwrite: bool) -> ObjectStat:
        """Check that the file holds what was written, and make it the object in one step."""
        written = _sha256(part)
        if written != digest:
            raise StoreUnavailable(f"{part} reads back as {written}, written was {digest}; the disk is not sound")
        if overwrite:
            part.replace(self.root / key)
        else:
            _link(part, self.root / key)
        self.sync(key)
        found = self.stat(key)
        if found is None:
            raise StoreUnavailable(f"{self.location(key)} vanished right after it was written")
        return found


def _link(part: Path, target: Path) -> None:
    try:
        os.link(part, target)
    except FileExistsError as error:
        raise ObjectExists(str(target)) from error
    except OSError:
        # Some network file systems have no hard links: the check and the rename are then two steps, and a second
        # writer in between replaces a whole file by an equal one.
        if target.exists():
            raise ObjectExists(str(target)) from None
        part.rename(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise StoreAccessDenied(f"{error.filename or path}: {error.strerror}; give this user the folder") from error
    except OSError as error:
        raise StoreUnavailable(sentence(error, path)) from error
