"""What a worker and its decoders say to each other: messages on a socket, bytes and pixels in shared memory.

A decoder has one request at a time. The image's bytes lie at the start of the memory that both share, and its pixels
take their place.
"""

from __future__ import annotations

import os
from enum import Enum
from struct import Struct
from typing import NamedTuple

MESSAGE_BYTES = 4096
"""Of the longest message; what is beyond is cut."""

MAX_SQUARE_BYTES = 4 << 20
"""Room for pixels, of squares of up to 1,182."""

_REQUEST = Struct("<IQHHQ?")


class Request(NamedTuple):
    generation: int
    """Of the decoder that is asked: one that took its place does not answer in its name."""
    length: int
    """Bytes of the image."""
    rotation: int
    size: int
    max_pixels: int
    may_be_large: bool

    def to_message(self) -> bytes:
        return _REQUEST.pack(*self)

    @classmethod
    def from_message(cls, message: bytes) -> Request:
        return cls(*_REQUEST.unpack(message))


class Kind(Enum):
    READY = b"R"
    """A decoder waits for requests; its generation."""
    SQUARE = b"S"
    """The pixels are there."""
    FAILED = b"F"
    """The image is at fault: the reason, a space, the detail."""
    LARGE = b"L"
    """It is a large image, which the request does not allow."""
    NO_MEMORY = b"M"
    BUG = b"B"
    """An exception that no image may raise: its traceback."""
    DIED = b"D"
    """Of this signal, or -exit code; another decoder takes its place and will say that it is ready."""


class Answer(NamedTuple):
    kind: Kind
    text: str = ""

    def to_message(self) -> bytes:
        return (self.kind.value + self.text.encode("utf-8", "backslashreplace"))[:MESSAGE_BYTES]

    @classmethod
    def from_message(cls, message: bytes) -> Answer:
        return cls(Kind(message[:1]), message[1:].decode("utf-8", "replace"))


def new_memory(max_image_bytes: int) -> int:
    """Return the descriptor of memory for one decoder. It takes as much as was written to it."""
    descriptor = os.memfd_create("embedder-image")
    os.ftruncate(descriptor, max(max_image_bytes, MAX_SQUARE_BYTES))
    return descriptor
