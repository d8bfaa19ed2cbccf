"""An image that has arrived, with its share of the budget of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from worker.fetch.transport import Image

if TYPE_CHECKING:
    from worker.fetch.byte_budget import Reservation


class Held(Generic[Image]):
    """An image, and the bytes that it holds."""

    __slots__ = ("_reservation", "image")

    def __init__(self, image: Image, reservation: Reservation) -> None:
        self.image = image
        self._reservation = reservation

    def release(self) -> None:
        """Give the bytes back."""
        self._reservation.release()
