"""Durations as people read them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Return the seconds as `42s`, `3m 04s`, `2h 05m` or `3d 04h`."""
    whole = round(seconds)
    for unit, size, below, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part:02d}{below}"
    return f"{whole}s"
