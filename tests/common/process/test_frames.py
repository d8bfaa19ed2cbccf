from __future__ import annotations

import io

import pytest

from common.process.frames import BrokenFrame, Frame, read_frame, write_frame


def test_messages_are_read_as_they_were_written() -> None:
    frames = [Frame({"id": 1, "text": "zwei\nHunde 🐕\0"}), Frame({}, b"\n\0\xff" * 1000), Frame({"id": 2}, b"")]
    stream = io.BytesIO()
    for frame in frames:
        write_frame(stream, frame)
    stream.seek(0)
    assert [read_frame(stream, max_payload_bytes=3000) for _ in range(4)] == [*frames, None]


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"bytes": "1"}\n',
        b'{"bytes": -1}\n',
        b'{"bytes": 11}\n',
        b'{"bytes": 2}\nx',
    ],
)
def test_what_is_no_message_is_an_error(data: bytes) -> None:
    with pytest.raises(BrokenFrame):
        read_frame(io.BytesIO(data), max_payload_bytes=10)
