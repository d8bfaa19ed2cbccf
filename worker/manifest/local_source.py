"""A manifest in a file of this machine, or of a volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from common.errors import ManifestError, SourceUnavailable, StoreAccessDenied
from common.logs import redact_url
from worker.manifest.byte_source import content_changed, sampled_hash


def local_path(uri: str) -> Path:
    """Return the absolute path that a path or a file:// URL names.

    Raises ManifestError for another host's file, and for the home of nobody.
    """
    if not uri.lower().startswith("file://"):
        try:
            return Path(uri).expanduser().absolute()
        except RuntimeError as error:
            raise ManifestError(f"{uri} names the folder of a user that this machine does not know") from error
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"}:
        raise ManifestError(f"{redact_url(uri)} names the host {parts.hostname}; write file:///path for a local file")
    return Path(url2pathname(parts.path))


class _FileVersion(NamedTuple):
    size: int
    modified_ns: int


class LocalSource:
    """A file. It is opened anew for every read, so that a network file system's cache hides no change."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            if not path.is_file():
                path.stat()
                raise ManifestError(f"{path} is no file; EMBEDDER_MANIFEST_URI takes one file")
            with path.open("rb") as file:
                self._version = _version(file.fileno())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ManifestError(
                f"{path} does not exist; is EMBEDDER_MANIFEST_URI right, and the volume mounted?"
            ) from error
        except PermissionError as error:
            raise StoreAccessDenied(f"{path} cannot be read: {error.strerror}; give this user the file") from error
        except OSError as error:
            raise SourceUnavailable(f"{path}: {error.strerror}") from error
        self.size = self._version.size
        # The modification time says nothing here: each pod may have a copy of its own.
        self._identity: str | None = None

    @property
    def identity(self) -> str:
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
        if version != self._version or len(data) < length:
            raise content_changed(self.name, f"{version.size} bytes", f"{self.size} bytes, or its date differs")
        return bytes(data)


def _version(descriptor: int) -> _FileVersion:
    status = os.fstat(descriptor)
    return _FileVersion(status.st_size, status.st_mtime_ns)
