"""A file put together from parts beside its place, and then renamed into it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Self

from common.errors import StoreUnavailable
from common.store import AssemblyGone, ObjectStat, check_length

if TYPE_CHECKING:
    from pathlib import Path

    from common.folder_store import FolderStore

_NO_COPY_RANGE = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
"""How kernels and file systems say that they cannot copy a range of one file into another."""

COPY_BYTES = 4 << 20


class FolderAssembly:
    is_readable = True

    def __init__(self, store: FolderStore, key: str, part: Path, size: int, *, replacing: ObjectStat | None) -> None:
        self._store, self._key, self._part, self._replacing = store, key, part, replacing
        self._file = part.open("r+b", buffering=0)
        self._file.truncate(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def upload(self, number: int, offset: int, data: bytes | bytearray) -> None:  # noqa: ARG002 - offsets are enough
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
                    raise StoreUnavailable(f"{path} ends {length} bytes early; it was replaced while it was copied")
                start, offset, length = start + copied, offset + copied, length - copied

    def _copy_some(self, source: int, start: int, offset: int, length: int) -> int:
        try:
            return os.copy_file_range(source, self._file.fileno(), min(length, 1 << 30), start, offset)
        except AttributeError:  # not on this system
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
