"""What a decoder is told when it starts."""

from __future__ import annotations

from typing import NamedTuple


class DecoderSettings(NamedTuple):
    """What holds for every image. It travels on a command line, so it holds no secret."""

    connect_seconds: float
    read_seconds: float
    request_seconds: float
    max_bytes: int
    user_agent: str
    max_pixels: int
    decode_cpu_seconds: float
