"""A manifest in a file of this machine, or of a volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from common.errors import ManifestError, SourceUnavailable, StoreAccessDenied
from common.logs import redact_url
from worker.manifest.places.byte_source import MANIFEST_SETTING, content_changed, sampled_hash
from worker.rows import listed_file_tag


def local_path(uri: str) -> Path:
    """Return the absolute path that a path or a file:// URL names.

    Raises ManifestError for a file of another host, and for the home folder of an unknown user.
    """
    if not uri.lower().startswith("file://"):
        try:
            return Path(uri).expanduser().absolute()
        except RuntimeError as error:
            raise ManifestError(f"{uri} names the home folder of a user that this machine does not know") from error
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"}:
        raise ManifestError(f"{redact_url(uri)} names the host {parts.hostname}; write file:///path for a local file")
    return Path(url2pathname(parts.path))


class FileVersion(NamedTuple):
    size: int
    modified_ns: int

    def __str__(self) -> str:
        return f"{self.size} bytes and the modification time {self.modified_ns / 1e9:.6f}"


class LocalSource:
    """A file. Every read opens it again, because the cache of a network file system can hide a change until then."""

    def __init__(
        self, path: Path, *, setting: str = MANIFEST_SETTING, name: str = "", listed: FileVersion | None = None
    ) -> None:
        """Open the file, or take what a list of its folder says. `name` is used for the path in errors and rows."""
        self.uri = str(path)
        self.name = name or self.uri
        self.is_direct = True
        self._path = path
        self._identity: str | None = None
        self.version = listed or self._look(path, setting)
        self.size = self.version.size

    def _look(self, path: Path, setting: str) -> FileVersion:
        try:
            if not path.is_file():
                path.stat()  # is_file() returns False for some errors, stat() raises them
                raise ManifestError(f"{path} is not a file; {setting} takes one file")
            with path.open("rb") as file:
                return _version(file.fileno())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ManifestError(f"{path} does not exist; is {setting} right, and is the volume mounted?") from error
        except PermissionError as error:
            raise StoreAccessDenied(
                f"{path} cannot be read: {error.strerror}; allow the worker's user to read it"
            ) from error
        except OSError as error:
            raise SourceUnavailable(f"{path}: {error.strerror}") from error

    @property
    def tag(self) -> str:
        return listed_file_tag(self.version.size, self.version.modified_ns)

    @property
    def identity(self) -> str:
        # Without the modification time, because each pod may have its own copy of the file.
        if self._identity is None:
            self._identity = f"{self.size} bytes sha256 {sampled_hash(self)}"
        return self._identity

    def read(self, start: int, length: int) -> bytes:
        try:
            with self._path.open("rb", buffering=0) as file:
                version = _version(file.fileno())
                data = bytearray()
                while len(data) < length and (block := os.pread(file.fileno(), length - len(data), start + len(data))):
                    data += block
        except OSError as error:
            raise SourceUnavailable(f"{self.name}: {error.strerror}") from error
        if version != self.version:
            raise content_changed(self.name, version, self.version)
        if len(data) < length:
            raise content_changed(self.name, f"{start + len(data)} bytes", self.version)
        return bytes(data)


def _version(descriptor: int) -> FileVersion:
    status = os.fstat(descriptor)
    return FileVersion(status.st_size, status.st_mtime_ns)
