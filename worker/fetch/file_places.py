"""Where the files lie that hold many images: behind the redirects of the URL that the operator named."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.fetch.image_url import HttpUrl

PLACE_SECONDS = 300
"""Time in seconds for which a redirect is remembered. Those that lead to a signed URL are good for longer."""


class _Place(NamedTuple):
    url: HttpUrl
    found_at: float


class FilePlaces:
    """Remembers where redirects led, since hubs limit requests: a file may hold ten thousand images."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}

    def of(self, text: str) -> HttpUrl | None:
        """Return where the URL `text` has led to in the last minutes, None if that is not known."""
        place = self._places.get(text)
        return place.url if place is not None and time.monotonic() - place.found_at < PLACE_SECONDS else None

    def note(self, text: str, url: HttpUrl) -> None:
        self._places[text] = _Place(url, time.monotonic())

    def forget(self, text: str) -> None:
        self._places.pop(text, None)
