"""A manifest in a file of this machine, or of a volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from common.errors import ManifestError, SourceUnavailable, StoreAccessDenied
from common.logs import redact_url
from worker.manifest.byte_source import MANIFEST_SETTING, content_changed, sampled_hash


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


class _FileVersion(NamedTuple):
    size: int
    modified_ns: int

    def __str__(self) -> str:
        return f"{self.size} bytes and the modification time {self.modified_ns / 1e9:.6f}"


class LocalSource:
    """A file. Every read opens it again, because the cache of a network file system can hide a change until then."""

    def __init__(self, path: Path, *, setting: str = MANIFEST_SETTING) -> None:
        self.name = self.uri = str(path)
        self.is_direct = True
        self._path = path
        try:
            if not path.is_file():
                path.stat()  # is_file() returns False for some errors, stat() raises them
                raise ManifestError(f"{path} is not a file; {setting} takes one file")
            with path.open("rb") as file:
                self._version = _version(file.fileno())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ManifestError(f"{path} does not exist; is {setting} right, and is the volume mounted?") from error
        except PermissionError as error:
            raise StoreAccessDenied(
                f"{path} cannot be read: {error.strerror}; allow the worker's user to read it"
            ) from error
        except OSError as error:
            raise SourceUnavailable(f"{path}: {error.strerror}") from error
        self.size = self._version.size
        self._identity: str | None = None

    @property
    def tag(self) -> str:
        return f"{self._version.size} {self._version.modified_ns}"

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
        if version != self._version:
            raise content_changed(self.name, version, self._version)
        if len(data) < length:
            raise content_changed(self.name, f"{start + len(data)} bytes", self._version)
        return bytes(data)


def _version(descriptor: int) -> _FileVersion:
    status = os.fstat(descriptor)
    return _FileVersion(status.st_size, status.st_mtime_ns)
