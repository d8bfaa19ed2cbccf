"""A row of the manifest, as the stages pass it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.format.reasons import Reason


@dataclass(frozen=True, slots=True)
class Row:
    """One image of the manifest."""

    position: int
    """Within the chunk's rows, from 0, malformed ones counted."""
    url: str
    """The manifest's URL, as it stands in the result."""
    id: str = ""
    subset: str = ""
    """Of Open Images: train, validation or test; the mirror's folder."""
    thumbnail: str = ""
    """Of Open Images: the URL of a picture of 640 pixels or so, may be empty."""
    rotation: int = 0
    """Degrees counter-clockwise by which the picture is to be turned: 0, 90, 180 or 270."""


class ImageFailed(Exception):
    """One image cannot be had or embedded; becomes its row in the ledger."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class LargeImage(Exception):
    """The image is so large that no other such image may be decoded beside it."""
