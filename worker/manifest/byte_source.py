"""Where a manifest's bytes come from: a local file, an HTTP server or S3, read in ranges.

A source fetches its first HEAD_BYTES once, when it is opened, and answers from them whatever lies within.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from common.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


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
