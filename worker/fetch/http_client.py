"""Turns requests into orders for the transport, and lets them go only to addresses that are allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from common.site_names import is_address
from worker.fetch.host_guard import HostGuard
from worker.fetch.request import Request
from worker.fetch.resolvers import Addresses, ThreadedResolver
from worker.fetch.statuses import failure_of
from worker.fetch.transport import Answered, Broken, Get, Image

if TYPE_CHECKING:
    from worker.fetch.byte_budget import Reservation
    from worker.fetch.image_url import HttpUrl
    from worker.fetch.relayed_proxies import RelayedProxies
    from worker.fetch.resolvers import Resolver
    from worker.fetch.transport import Transport
    from worker.rows import ByteRange


class HttpClient(Generic[Image]):
    """For one event loop.

    The origins in `trusted` are allowed whatever their addresses, because the operator named them. `proxies` must live
    as long as the client. `resolver` replaces the system's resolver.
    """

    def __init__(
        self,
        transport: Transport[Image],
        *,
        allow_private_hosts: bool,
        verify_certificates: bool,
        connect_timeout_seconds: float,
        trusted: list[HttpUrl],
        proxies: RelayedProxies,
        resolver: Resolver | None,
    ) -> None:
        self._transport = transport
        self._guard = HostGuard(allow_private=allow_private_hosts, trusted=trusted)
        self._verify_certificates = verify_certificates
        self._proxies = proxies
        self._addresses = Addresses(resolver or ThreadedResolver(), timeout_seconds=connect_timeout_seconds)
        self.requests = 0
        self.bytes_received = 0
        """The bytes of all bodies, complete or not."""

    async def close(self) -> None:
        await self._addresses.close()

    def request(self, url: HttpUrl, *, is_trusted: bool, cookie: str = "", held: ByteRange | None = None) -> Request:
        """Return the request for a URL, or for the range `held` of its content.

        Raises NotAsked (forbidden_host) if the URL is not allowed.
        `is_trusted`: it is the operator's own store or manifest, whose certificate is always checked.
        """
        checks_certificate = is_trusted or self._verify_certificates
        is_trusted = is_trusted or self._guard.trusts(url)
        if not is_trusted:
            self._guard.check(url)
        return Request(url, is_trusted, url.server, cookie, checks_certificate, held)

    async def get(self, request: Request, *, rotation: int, reservation: Reservation) -> Image | Answered:
        """Make the request, and return the image once all its bytes have arrived, or another answer.

        Raises ImageFailed (too_large), NotAsked, Unanswered and ResourceExhausted.
        """
        order = await self._order(request, rotation=rotation, reservation=reservation)
        answer = await self._transport.get(order, reservation)
        if isinstance(answer, (Answered, Broken)):
            return self._note(answer)
        self.bytes_received += answer.length
        return answer

    async def probe(self, request: Request) -> Answered:
        """Make the request, and return its answer without a body. Raises like `get`."""
        order = await self._order(request, rotation=0, reservation=None)
        answer = await self._transport.get(order, None)
        if not isinstance(answer, (Answered, Broken)):
            raise TypeError("the transport fetched a body for a probe")
        return self._note(answer)

    def _note(self, answer: Answered | Broken) -> Answered:
        """Count the bytes of an answer without an image, and return the answer. Raises what it means if it broke."""
        self.bytes_received += answer.received_bytes
        if isinstance(answer, Broken):
            raise failure_of(answer)
        return answer

    async def _order(self, request: Request, *, rotation: int, reservation: Reservation | None) -> Get:
        self.requests += 1
        url = request.url
        proxy = self._proxies.address_for(scheme=url.scheme, host=url.host, port=url.port)
        # A proxy looks the name up itself, and has rules of its own.
        is_guarded = not (request.is_trusted or proxy)
        has_no_name = proxy or is_address(url.host)
        addresses = () if has_no_name else await self._addresses.of(url.host, is_guarded=is_guarded)
        # By position, which takes half the time.
        granted_bytes = reservation.size if reservation else 0
        is_probe = reservation is None
        cookie = "" if is_probe else request.cookie  # a probe is of no chain of redirects
        checks = request.checks_certificate
        text, host, port = url.text, url.host, url.port
        order = Get(text, host, port, addresses, is_guarded, proxy, is_probe, rotation, granted_bytes, cookie, checks)
        if (wanted := request.range) is None:
            return order
        return order._replace(first=wanted.offset, length=wanted.length, tag=wanted.tag)
