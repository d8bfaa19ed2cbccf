"""A row of the manifest, and the two exceptions that its image may raise."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias
from urllib.parse import quote

from common.format.reasons import Reason

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator

ImageContent: TypeAlias = bytes | bytearray | memoryview
"""The bytes of an image's file."""


class ByteRange(NamedTuple):
    """The bytes of an image within a file: a member of a tar, or a piece of a temporary file."""

    uri: str
    """An absolute path, or an http, https or s3 URL of a server that serves ranges. The operator named it."""
    offset: int
    length: int
    tag: str = ""
    """The version of the file, as `file_tag` makes it for a local file and an ETag tells it for a remote one. Empty:
    not known."""


def file_tag(status: os.stat_result) -> str:
    """Return a text that changes when a local file changes."""
    return listed_file_tag(status.st_size, status.st_mtime_ns)


def listed_file_tag(size: int, modified_ns: int) -> str:
    """Return the same text for what a list says: the size in bytes, and the time of the last change."""
    return f"{size} {modified_ns}"


class Row(NamedTuple):
    """One image of the manifest."""

    position: int
    """The row's position in the chunk, from 0. Malformed rows count too."""
    url: str
    """The URL as the manifest writes it. The result holds it unchanged."""
    id: str = ""
    subset: str = ""
    """Open Images' subset: train, validation or test. It is the folder's name on the mirror."""
    thumbnail: str = ""
    """The URL of Open Images' picture of about 640 pixels. It may be empty."""
    rotation: int = 0
    """The degrees by which the picture must be turned counter-clockwise: 0, 90, 180 or 270."""
    held: ByteRange | None = None
    """Where the image's bytes lie in the manifest's own files, for a decoder that reads them there."""
    is_named: bool = False
    """Whether `url` is only a name that the worker gave to an image without a URL: nothing can be fetched from it."""


def url_on_mirror(mirror_url: str, *, subset: str, image_id: str) -> str:
    """Return the URL of an image on the mirror of Open Images at `mirror_url`."""
    base = mirror_url.rstrip("/")
    if base.startswith("s3://"):
        return f"{base}/{subset}/{image_id}.jpg"  # a key; it is percent-encoded when it is signed
    return f"{base}/{_quoted(subset)}/{_quoted(image_id)}.jpg"


def _quoted(text: str) -> str:
    # Open Images' own names need no quoting, and each row's URL is made several times.
    return text if text.isalnum() and text.isascii() else quote(text, safe="")


class HeldImages(Protocol):
    """Images whose bytes the worker itself reads from the manifest, a few ahead of the decoders."""

    async def get(self, position: int) -> ByteRange:
        """Return where the bytes of the row at `position` lie now: in a temporary file of this machine.

        They stay there until `release`. Raises ImageFailed when the row has no bytes, SourceUnavailable and
        ManifestError when they cannot be read, and ResourceExhausted when the disk is full.
        """

    def release(self, position: int) -> None:
        """Forget the bytes of the row, because they are decoded or have failed."""


class ImageFailed(Exception):
    """One image cannot be fetched, decoded or embedded. It becomes a row of the ledger."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def with_detail(self, detail: str) -> ImageFailed:
        """Return the same failure with another detail."""
        return ImageFailed(self.reason, detail)


def length_fault(length: int, *, max_bytes: int) -> ImageFailed | None:
    """Return why an image of `length` bytes is not read: it is empty or larger than `max_bytes`. None: it is read."""
    if not length:
        return ImageFailed(Reason.NOT_AN_IMAGE, "it has no bytes")
    if length > max_bytes:
        return ImageFailed(Reason.TOO_LARGE, f"{length} bytes, the limit is {max_bytes}")
    return None


HeldContents: TypeAlias = "Callable[[int], Generator[tuple[int, ImageContent | ImageFailed]]]"
"""Reads the images that a manifest holds. It is called with the size in bytes of the largest image that is wanted, and
yields the position of each row with its image or with the reason why there is none, by ascending positions."""


class LargeImage(Exception):
    """The image is so large that no other large image may be decoded at the same time."""
