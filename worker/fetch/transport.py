"""What is asked of a transport, which makes the requests, and what it answers.

The worker decides what is asked, and when. The requests themselves are made in other processes (`worker.decoders`), so
that no image's bytes pass through the worker.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from common.format.reasons import Reason  # noqa: TC001 - a field of a NamedTuple

if TYPE_CHECKING:
    from worker.fetch.byte_budget import Reservation


class Get(NamedTuple):
    """A GET of one URL."""

    url: str
    """The URL exactly as it is requested, in ASCII. It may hold a signature, and never a key that signs."""
    host: str
    """The URL's host in lower case and without brackets."""
    port: int
    addresses: tuple[str, ...]
    """The IP addresses of the host, to which the connection must go. Empty: the host is an address itself, or a proxy
    looks the host up."""
    is_guarded: bool
    """Whether the connection may go to public addresses only. Such a request shares no connection with others."""
    proxy: str
    """The URL of the proxy or of the relay to it, an empty text for a direct connection. It never holds a password of a
    proxy."""
    is_probe: bool
    """Whether only the status is wanted, and no body."""
    rotation: int
    """Degrees counter-clockwise by which the image is turned: 0, 90, 180 or 270."""
    granted_bytes: int
    """Number of bytes that the body may have before the transport asks for more."""
    cookie: str = ""
    """The header Cookie in Latin-1, an empty text for none."""
    checks_certificate: bool = True
    """Whether an https server must show a valid certificate."""
    first: int = 0
    """Offset of the first byte of the range that is wanted."""
    length: int = 0
    """Length of this range in bytes. 0: the whole content is wanted."""
    tag: str = ""
    """The ETag that the content of the range must have, without quotes. Empty: any."""
    square_size: int = 0
    """Side in pixels of the square that is wanted. 0: that of the room."""
    picture_side: int = 0
    """Longest side in pixels of the small JPEG that is wanted in place of the square. 0: the square is wanted."""


class ReadFile(NamedTuple):
    """A read of one local file, or of a range of it."""

    path: str
    rotation: int
    granted_bytes: int
    first: int = 0
    """Offset of the first byte of the range that is wanted."""
    length: int = 0
    """Length of this range in bytes. 0: the whole file is wanted."""
    tag: str = ""
    """What `worker.rows.file_tag` must say of the file. Empty: anything."""
    square_size: int = 0
    picture_side: int = 0
    """Both as in Get."""


class Answered(NamedTuple):
    """A server answered with something else than an image, or the request was a probe."""

    status: int
    location: str
    """The header Location, an empty text if there is none."""
    retry_after: str
    """The header Retry-After, an empty text if there is none."""
    received_bytes: int
    """Number of bytes of the body that arrived."""
    cookies: tuple[str, ...] = ()
    """The values of the headers Set-Cookie of a redirect."""


class Verdict(StrEnum):
    """What a request that broke says about its image."""

    FINAL = "final"
    """The image fails, and its host has answered."""
    NOT_ASKED = "not_asked"
    """The image fails, and no host was asked."""
    MAY_PASS = "may_pass"  # noqa: S105 - no password
    """The same request may succeed later."""
    WILL_NOT_PASS = "will_not_pass"  # noqa: S105 - no password
    """The host gave no useful answer and will not."""
    CHANGED = "changed"
    """The file that holds images is not the one that the manifest's index was read from. No image is to blame."""
    MACHINE = "machine"
    """This machine is at its limits. No image and no host is to blame."""


class Broken(NamedTuple):
    """A request or a read ended without an answer that can be used."""

    verdict: Verdict
    reason: Reason
    detail: str
    """What happened, without any text of the server."""
    received_bytes: int
    is_hosts_fault: bool = False
    """Whether the host itself has sent what cannot be used: no HTTP, half an answer, an invalid certificate."""


class FetchedImage(Protocol):
    """An image whose bytes have arrived in the transport, where they are decoded."""

    @property
    def length(self) -> int:
        """The number of its bytes."""
        ...


Image = TypeVar("Image", bound=FetchedImage)
Image_co = TypeVar("Image_co", bound=FetchedImage, covariant=True)


class Transport(Protocol[Image_co]):
    """Makes requests, for one event loop."""

    async def get(self, order: Get, reservation: Reservation | None) -> Image_co | Answered | Broken:
        """Make the request, and return once the whole body has arrived or the request is over.

        `reservation` grows when the body needs more than `order.granted_bytes`. A probe has none.
        """
        ...

    async def read(self, order: ReadFile, reservation: Reservation) -> Image_co | Broken:
        """Read the file, and return once its bytes are in memory or the read has failed."""
        ...
