"""Turns requests into orders for the transport, and lets them go only to addresses that are allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from common.site_names import is_address
from worker.fetch.failures import NotAsked
from worker.fetch.host_guard import HostGuard
from worker.fetch.public_address import is_public_address
from worker.fetch.request import Request
from worker.fetch.resolvers import Addresses, ThreadedResolver
from worker.fetch.statuses import failure_of
from worker.fetch.transport import Answered, Broken, Get, Image

if TYPE_CHECKING:
    from collections.abc import Awaitable

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

    def request_at_once(self, url: HttpUrl, *, is_trusted: bool) -> Request | None:
        """Return the request for a URL, None if the URL is not allowed."""
        try:
            return self.request(url, is_trusted=is_trusted)
        except NotAsked:
            return None

    async def get(self, request: Request, *, rotation: int, reservation: Reservation) -> Image | Answered:
        """Make the request, and return the image once all its bytes have arrived, or another answer.

        Raises ImageFailed (too_large), NotAsked, Unanswered and ResourceExhausted.
        """
        order = await self._order(request, rotation=rotation, granted_bytes=reservation.size)
        return self.note(await self.send(order, reservation))

    def order_at_once(self, request: Request, *, rotation: int, granted_bytes: int) -> Get | None:
        """Return the order for an image's request, None if its host must be looked up or must not be asked."""
        proxy = self._proxy_for(request)
        addresses: tuple[str, ...] = ()
        if not (proxy or is_address(request.url.host)):
            addresses = self._addresses.known(request.url.host)
            if not addresses or not (request.is_trusted or all(map(is_public_address, addresses))):
                return None
        return self._order_to(addresses, request, proxy=proxy, rotation=rotation, granted_bytes=granted_bytes)

    def send(self, order: Get, reservation: Reservation | None) -> Awaitable[Image | Answered | Broken]:
        """Return the request as an awaitable. Its result, which tells what came of it, is for `note`."""
        self.requests += 1
        return self._transport.get(order, reservation)

    def note(self, answer: Image | Answered | Broken) -> Image | Answered:
        """Count the bytes of an answer, and return it. Raises what it means if the request broke."""
        if isinstance(answer, (Answered, Broken)):
            self.bytes_received += answer.received_bytes
            if isinstance(answer, Broken):
                raise failure_of(answer)
        else:
            self.bytes_received += answer.length
        return answer

    async def probe(self, request: Request) -> Answered:
        """Make the request, and return its answer without a body. Raises like `get`."""
        order = await self._order(request, rotation=0, granted_bytes=0)
        # Without a cookie, because a probe is of no chain of redirects.
        answer = self.note(await self.send(order._replace(is_probe=True, cookie=""), None))
        if not isinstance(answer, Answered):
            raise TypeError("the transport fetched a body for a probe")
        return answer

    async def _order(self, request: Request, *, rotation: int, granted_bytes: int) -> Get:
        proxy = self._proxy_for(request)
        host = request.url.host
        # A proxy looks the name up itself, and has rules of its own.
        has_no_name = proxy or is_address(host)
        addresses = () if has_no_name else await self._addresses.of(host, is_guarded=not request.is_trusted)
        return self._order_to(addresses, request, proxy=proxy, rotation=rotation, granted_bytes=granted_bytes)

    def _proxy_for(self, request: Request) -> str:
        url = request.url
        return self._proxies.address_for(scheme=url.scheme, host=url.host, port=url.port)

    def _order_to(
        self, addresses: tuple[str, ...], request: Request, *, proxy: str, rotation: int, granted_bytes: int
    ) -> Get:
        is_guarded = not (request.is_trusted or proxy)
        text, _, host, port = request.url
        cookie, checks = request.cookie, request.checks_certificate
        # By position, which takes half the time.
        order = Get(text, host, port, addresses, is_guarded, proxy, False, rotation, granted_bytes, cookie, checks)
        if (wanted := request.range) is None:
            return order
        return order._replace(first=wanted.offset, length=wanted.length, tag=wanted.tag)
