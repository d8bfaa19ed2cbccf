"""Reads the headers of a tar and jumps over what lies between them, where that is more than a little."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.manifest.places.byte_source import ByteSource


class Steps(NamedTuple):
    """How much of a tar is read at a time, in bytes."""

    smallest: int
    """Read after a jump: the header of an image, and the small members that usually follow it."""
    largest: int
    near: int
    """What lies no farther behind the last block than this is read with the next block, which is twice as large."""


LOCAL = Steps(smallest=4096, largest=256 << 10, near=4096)
"""A local file gives any page at once, so nothing is read through."""

REMOTE = Steps(smallest=64 << 10, largest=4 << 20, near=1 << 20)
"""A request takes as long as 1 MiB, about 20 ms. So the headers between small images are read with the images, and
large images are jumped over."""


class TarContent:
    """The bytes of one tar, for one thread."""

    def __init__(self, source: ByteSource, steps: Steps) -> None:
        self._source = source
        self._steps = steps
        self._step = steps.smallest
        self._start, self._block = 0, b""

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on, fewer at the end of the tar. Raises as `ByteSource.read`."""
        at = start - self._start
        if at < 0 or at + length > len(self._block):
            self._read_block(start, length)
            at = 0
        return self._block[at : at + length]

    def _read_block(self, start: int, length: int) -> None:
        left = self._source.size - start
        if left <= 0:
            self._start, self._block = start, b""
            return
        skipped = start - self._start - len(self._block)
        is_near = skipped <= self._steps.near and self._block
        self._step = min(2 * self._step, self._steps.largest) if is_near else self._steps.smallest
        self._start, self._block = start, self._source.read(start, min(left, max(length, self._step)))
