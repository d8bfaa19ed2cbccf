"""The messages between a worker and its decoders.

Messages travel on a socket; image bytes and pixels are in shared memory. A decoder works on one request at a time. The
worker writes the image at the start of the shared memory, and the decoder overwrites it with the pixels:

    worker                                      decoder
                       <-- Ready(generation)    is started
    image into memory
    Request(...)       -->                      decodes the image
                       <-- Done() or a failure  pixels into memory
"""

from __future__ import annotations

import json
import os
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from common.format.reasons import Reason

if TYPE_CHECKING:
    import socket

MESSAGE_BYTES = 32 << 10
"""Maximum size of a message in bytes."""

MAX_TEXT_CHARS = 2000
"""Maximum length of a text in an answer. In JSON a character takes at most 12 bytes, so the text fits in a message."""

MAX_SQUARE_BYTES = 4 << 20
"""Maximum size of a square in bytes: 1,182 x 1,182 pixels. The shared memory always has room for it."""

_REQUEST = Struct("<IQHHQ?")


class Connection(NamedTuple):
    """A decoder's end of the connection to the worker. A decoder that replaces another takes over its connection."""

    link: socket.socket
    memory: int
    """File descriptor of the memory that the worker shares."""


class Request(NamedTuple):
    """Asks for the square of the image in shared memory."""

    generation: int
    """The generation of the decoder that the request is for. The decoder that replaces it ignores the request."""
    length: int
    """Size of the image in bytes."""
    rotation: int
    """Degrees counter-clockwise: 0, 90, 180 or 270."""
    size: int
    """Side length of the square in pixels."""
    max_pixels: int
    may_be_large: bool

    def to_message(self) -> bytes:
        return _REQUEST.pack(*self)

    @classmethod
    def from_message(cls, message: bytes) -> Request:
        return cls(*_REQUEST.unpack(message))


class Ready(NamedTuple):
    """A new decoder waits for requests."""

    generation: int
    """Number of decoders that have used this connection before."""


class Done(NamedTuple):
    """The pixels are in shared memory."""


class Failed(NamedTuple):
    """The image cannot be decoded."""

    reason: Reason
    detail: str


class Large(NamedTuple):
    """The image is a large one, and the request does not allow it."""


class NoMemory(NamedTuple):
    """The decoder's memory was not enough for the image."""


class Bug(NamedTuple):
    """The code raised an exception that no image may cause."""

    traceback: str


class Died(NamedTuple):
    """A decoder ended. Another takes its place and sends `Ready`."""

    exit_code: int
    """Its exit code, or the negative number of the signal that ended it."""


Answer = Ready | Done | Failed | Large | NoMemory | Bug | Died


def answer_to_message(answer: Answer) -> bytes:
    """Return the answer as a JSON list: its type's name and its fields."""
    fields = [_sendable(field) if isinstance(field, str) else field for field in answer]
    return json.dumps([type(answer).__name__, *fields]).encode()


def answer_from_message(message: bytes) -> Answer:  # noqa: PLR0911 - one return for each type
    """Return the answer that `answer_to_message` wrote. Raises ValueError for any other message."""
    match json.loads(message.decode()):
        case ["Done"]:
            return Done()
        case ["Ready", int(generation)]:
            return Ready(generation)
        case ["Failed", str(reason), str(detail)]:
            return Failed(Reason(reason), detail)
        case ["Large"]:
            return Large()
        case ["NoMemory"]:
            return NoMemory()
        case ["Bug", str(traceback)]:
            return Bug(traceback)
        case ["Died", int(exit_code)]:
            return Died(exit_code)
    raise ValueError(f"a decoder sent {message[:100]!r}, which is not an answer")


def _sendable(text: str) -> str:
    """Return the last MAX_TEXT_CHARS characters, with escapes for what UTF-8 cannot encode."""
    # Not the first characters, because the end of a traceback names the error.
    return text.encode("utf-8", "backslashreplace").decode()[-MAX_TEXT_CHARS:]


def new_memory(max_image_bytes: int) -> int:
    """Return the file descriptor of shared memory for one decoder. Only memory that was written to takes space."""
    descriptor = os.memfd_create("embedder-image")
    os.ftruncate(descriptor, max(max_image_bytes, MAX_SQUARE_BYTES))
    return descriptor
