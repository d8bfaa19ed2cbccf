"""Where a manifest's bytes come from: a local file, an HTTP server or S3, read in ranges.

A source fetches its first HEAD_BYTES once, when it is opened, and answers from them whatever lies within.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from common.errors import ManifestError, SourceUnavailable, StoreAccessDenied, StoreUnavailable
from common.logs import redact_url
from common.store import ObjectAbsent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.s3 import ObjectRange
    from worker.settings import WorkerSettings

HEAD_BYTES = 65_536
"""Enough for any header line that people write, and little beside a chunk."""

BLOCK_BYTES = 4 << 20
"""One request's share of a chunk: few requests, and no more memory than this for bytes not yet parsed."""

SAMPLE_COUNT = 64
SAMPLE_BYTES = 65_536
"""What stands for a large file's content where nobody vouches for it by an ETag: 4 MiB, evenly spread."""


class ByteSource(Protocol):
    name: str
    """Of the source, for people: without passwords and signatures."""
    size: int
    """Bytes."""

    @property
    def identity(self) -> str:
        """Return what changes when the content does: the size, and an ETag, a date or a hash."""

    def read(self, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start`, which must lie within `size`.

        Raises SourceUnavailable when they cannot be had or when the content changed since the source was opened.
        """


def open_source(uri: str, settings: WorkerSettings) -> ByteSource:
    """Return the source at `uri`: a path, or a file://, http://, https:// or s3:// URL.

    Raises ManifestError where there is none, StoreAccessDenied where it is not ours to read, and SourceUnavailable
    where nobody can say.
    """
    scheme = uri.partition("://")[0].lower() if "://" in uri else "file"
    if scheme == "file":
        return LocalSource(local_path(uri))
    if scheme == "s3":
        return S3Source(uri)
    if scheme in {"http", "https"}:
        # Imported here, so that neither the local path nor S3 loads the other's client.
        from worker.http_source import HttpSource  # noqa: PLC0415

        return HttpSource(
            uri,
            user_agent=settings.user_agent,
            connect_timeout_seconds=settings.connect_timeout_seconds,
            read_timeout_seconds=settings.read_timeout_seconds,
            retry_after_limit_seconds=settings.retry_after_limit_seconds,
        )
    raise ManifestError(f"{redact_url(uri)}: {scheme}:// is not read; use a path, http://, https:// or s3://")


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.lower().startswith("file://")


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


def blocks(source: ByteSource, start: int, end: int, *, overlap: int) -> Iterator[bytes]:
    """Yield the source's bytes from `start` on, to its very end if the caller does not stop before.

    Up to `end` the blocks are large, and the last of them takes in `overlap` bytes more; beyond, they are small.
    """
    while start < source.size:
        wanted = min(BLOCK_BYTES, end + overlap - start) if start < end else SAMPLE_BYTES
        block = source.read(start, min(wanted, source.size - start))
        yield block
        start += len(block)


def sampled_hash(source: ByteSource) -> str:
    """Return the SHA-256 of the content, or of 64 KiB blocks evenly spread from first to last where it is large."""
    digest = hashlib.sha256()
    if source.size <= SAMPLE_COUNT * SAMPLE_BYTES:
        digest.update(source.read(0, source.size))
    else:
        for sample in range(SAMPLE_COUNT):
            start = sample * (source.size - SAMPLE_BYTES) // (SAMPLE_COUNT - 1)
            digest.update(source.read(start, SAMPLE_BYTES))
    return digest.hexdigest()


def content_changed(name: str, found: object, expected: object) -> SourceUnavailable:
    return SourceUnavailable(
        f"{name} changed while it was read: it is {found}, and was {expected}; a run needs a manifest that stays as "
        "it is"
    )


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


class S3Source:
    def __init__(self, uri: str) -> None:
        # boto3 takes half a second to load, which other sources need not wait for.
        from common.s3 import parse_s3_uri  # noqa: PLC0415

        self._location = parse_s3_uri(uri)
        self.name = str(self._location)
        if not self._location.key:
            raise ManifestError(f"{self.name} names a bucket; EMBEDDER_MANIFEST_URI takes an object, s3://bucket/key")
        first = self._read(0, HEAD_BYTES)
        self._head, self.size, self._etag = first.data, first.size, first.etag

    @property
    def identity(self) -> str:
        return f"{self.size} bytes etag {self._etag}"

    def read(self, start: int, length: int) -> bytes:
        data = self._head[start : start + length]
        if len(data) == length:
            return data
        answer = self._read(start + len(data), length - len(data))
        if (answer.size, answer.etag) != (self.size, self._etag):
            raise content_changed(self.name, f"{answer.size} bytes etag {answer.etag}", self.identity)
        if len(data) + len(answer.data) != length:
            raise SourceUnavailable(f"{self.name}: the store sent {len(answer.data)} bytes of {length - len(data)}")
        return data + answer.data

    def _read(self, start: int, length: int) -> ObjectRange:
        from common.s3 import read_object  # noqa: PLC0415

        try:
            return read_object(self._location, start=start, length=length)
        except ObjectAbsent as absent:
            raise ManifestError(f"{self.name} does not exist; is EMBEDDER_MANIFEST_URI right?") from absent
        except StoreUnavailable as error:
            raise SourceUnavailable(str(error)) from error
