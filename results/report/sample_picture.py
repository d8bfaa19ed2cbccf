"""Pictures for the contact sheet of a report, and how they are read back out of an earlier one."""

from __future__ import annotations

import base64
import binascii
from html.parser import HTMLParser
from typing import NamedTuple

PICTURE_CLASS = "sample"
"""The class of an `img` that is a sample picture. Its attributes `data-chunk` and `data-url` say whose it is."""

DATA_URI = "data:image/jpeg;base64,"

MAX_PICTURES = 2_000
"""Largest number of pictures that are read back."""

MAX_PICTURE_BYTES = 64 << 10
"""Largest size of a picture in bytes. A larger one is left out."""

JPEG_START = b"\xff\xd8\xff"


class SamplePicture(NamedTuple):
    """A small picture of an image that a chunk has embedded."""

    chunk: int
    url: str
    """The manifest's URL."""
    jpeg: bytes


def read_pictures(html: str) -> list[SamplePicture]:
    """Return the sample pictures of a report. What is not one of them is passed over."""
    reader = _PictureReader()
    reader.feed(html)
    return reader.pictures


def is_usable(picture: SamplePicture) -> bool:
    """Return whether a report may show the picture: a JPEG that is not too large."""
    return picture.jpeg.startswith(JPEG_START) and len(picture.jpeg) <= MAX_PICTURE_BYTES


class _PictureReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pictures: list[SamplePicture] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        source, chunk = values.get("src") or "", values.get("data-chunk") or ""
        if tag != "img" or values.get("class") != PICTURE_CLASS or len(self.pictures) >= MAX_PICTURES:
            return
        if not source.startswith(DATA_URI) or not chunk.isdecimal() or len(chunk) > 9:
            return
        try:
            jpeg = base64.b64decode(source.removeprefix(DATA_URI), validate=True)
        except (binascii.Error, ValueError):
            return
        picture = SamplePicture(int(chunk), values.get("data-url") or "", jpeg)
        if is_usable(picture):
            self.pictures.append(picture)
