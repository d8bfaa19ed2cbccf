"""What a row is called that the manifest gives no name: its file and its number in it."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.manifest.places.byte_source import ByteSource


def file_name(source: ByteSource) -> str:
    """Return the name of the file for the names of its rows: that of a local file without its folder."""
    return PurePath(source.name).name if source.name == source.uri and source.name.startswith("/") else source.name
