"""Messages between two programs on a pipe: one line of JSON each, and the bytes that belong to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing import BinaryIO

MAX_HEAD_BYTES = 1 << 20
"""Size of the longest line in bytes. The longest text is a URL or a query."""

_SIZE = "bytes"
"""The key of the payload's size in the line of JSON."""


class Frame(NamedTuple):
    """A message: values by name, and bytes."""

    head: dict[str, Any]
    payload: bytes = b""


class BrokenFrame(ValueError):
    """The other program sent what is not a message, or half of one."""


def write_frame(stream: BinaryIO, frame: Frame) -> None:
    """Write the message and flush. Raises OSError where nobody reads."""
    head = json.dumps({**frame.head, _SIZE: len(frame.payload)}).encode()
    stream.write(b"%b\n%b" % (head, frame.payload))
    stream.flush()


def read_frame(stream: BinaryIO, *, max_payload_bytes: int) -> Frame | None:
    """Return the next message, None at the end of the stream. Raises BrokenFrame."""
    line = stream.readline(MAX_HEAD_BYTES)
    if not line:
        return None
    try:
        head = json.loads(line)
        size = head.pop(_SIZE)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise BrokenFrame(f"not a message: {line[:60]!r}") from error
    if not isinstance(size, int) or not 0 <= size <= max_payload_bytes:
        raise BrokenFrame(f"a message with {size} bytes, the limit is {max_payload_bytes}")
    payload = stream.read(size)
    if len(payload) < size:
        raise BrokenFrame(f"a message ended after {len(payload)} of {size} bytes")
    return Frame(head, payload)
