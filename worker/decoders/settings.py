"""What a decoder is told when it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.settings import DecodeSettings, FetchSettings, HttpSettings


class DecoderSettings(NamedTuple):
    """What holds for every image. It travels on a command line, so it holds no secret."""

    connect_seconds: float
    read_seconds: float
    request_seconds: float
    max_bytes: int
    user_agent: str
    max_pixels: int
    decode_cpu_seconds: float


def decoder_settings(http: HttpSettings, fetch: FetchSettings, decode: DecodeSettings) -> DecoderSettings:
    """Return what holds for every image of a chunk."""
    return DecoderSettings(
        connect_seconds=http.connect_timeout_seconds,
        read_seconds=http.read_timeout_seconds,
        request_seconds=fetch.fetch_timeout_seconds,
        max_bytes=fetch.max_image_bytes,
        user_agent=http.user_agent_header,
        max_pixels=decode.max_image_pixels,
        decode_cpu_seconds=decode.decode_timeout_seconds,
    )
