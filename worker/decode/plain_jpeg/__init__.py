"""A decoder of our own for plain JPEGs. README.md says why it exists and what to remove together with this folder."""

from __future__ import annotations

from worker.decode.plain_jpeg.square import is_available, plain_square

__all__ = ["is_available", "plain_square"]
