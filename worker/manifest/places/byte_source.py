"""The contract of the places that hold a manifest: a local file, an HTTP server or S3, each read in ranges.

A source reads its head, the first HEAD_BYTES, when it is opened. It answers from the head without another request.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from common.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


MANIFEST_SETTING = "EMBEDDER_MANIFEST_URI"
"""The setting that names a source in errors, unless another one is given."""

HEAD_BYTES = 65_536
"""Size of a source's head in bytes. Header lines are shorter than this, and chunks are much larger."""

BLOCK_BYTES = 4 << 20
"""Largest number of bytes in one request: so large that a chunk takes few requests, and small beside the memory."""

SMALL_BLOCK_BYTES = 65_536
"""Number of bytes in one request beyond the end of a chunk, where only the rest of one line is needed."""

SAMPLE_COUNT = 64
"""Number of evenly spread samples that identify a file. A file that is not larger than all of them is hashed whole."""

SAMPLE_BYTES = 65_536
"""Size of a sample in bytes."""


class ByteSource(Protocol):
    name: str
    """The source's path or URL for logs and errors, without passwords and signatures."""
    size: int
    """Size of the content in bytes."""
    uri: str
    """The absolute path or the URL that the source reads."""
    is_direct: bool
    """Whether a decoder may read ranges of `uri` by itself: a local file, an object that a URL is signed for, or a URL
    without a secret. False for what only a library or a token of the worker can read."""

    @property
    def tag(self) -> str:
        """Return what tells a decoder that it reads the same content: an ETag without quotes, for a local file what
        `worker.rows.file_tag` says. Empty: nothing does."""

    @property
    def identity(self) -> str:
        """Return a text that changes when the content changes: the size, and an ETag, a date or a hash."""

    def read(self, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start` on. The range must lie within `size`.

        Raises SourceUnavailable when the bytes cannot be read, or when the content has changed since the source was
        opened.
        """


class KeptHead:
    """Reads a content of `size` bytes with `read`, and keeps its head once bytes of the head were asked for."""

    def __init__(self, read: Callable[[int, int], bytes], size: int, *, head: bytes = b"") -> None:
        self._read = read
        self._head_bytes = min(HEAD_BYTES, size)
        self._head = head

    def read(self, start: int, length: int) -> bytes:
        if start < self._head_bytes and not self._head:
            self._head = self._read(0, self._head_bytes)
        data = self._head[start : start + length]
        return data if len(data) == length else data + self._read(start + len(data), length - len(data))


def blocks(source: ByteSource, start: int, end: int, *, overlap: int) -> Iterator[bytes]:
    """Yield the source's bytes from `start` to the end of the source, block by block. The caller may stop early.

    Up to `end` the blocks are large, and the last large block extends `overlap` bytes beyond `end`. The blocks after
    it are small.
    """
    while start < source.size:
        wanted = min(BLOCK_BYTES, end + overlap - start) if start < end else SMALL_BLOCK_BYTES
        block = source.read(start, min(wanted, source.size - start))
        yield block
        start += len(block)


def sampled_hash(source: ByteSource) -> str:
    """Return the SHA-256 of the content, or of evenly spread samples when the content is large."""
    digest = hashlib.sha256()
    if source.size <= SAMPLE_COUNT * SAMPLE_BYTES:
        digest.update(source.read(0, source.size))
    else:
        for sample in range(SAMPLE_COUNT):
            start = sample * (source.size - SAMPLE_BYTES) // (SAMPLE_COUNT - 1)
            digest.update(source.read(start, SAMPLE_BYTES))
    return digest.hexdigest()


def content_changed(name: str, found: object, expected: object) -> SourceUnavailable:
    """Return the error for a source whose content is no longer what it was when the source was opened."""
    return SourceUnavailable(
        f"{name} changed while it was read: it has {found}, and had {expected}; a run needs a manifest that does not "
        "change"
    )
