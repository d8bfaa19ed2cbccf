"""Signed URLs of S3 objects. With them an object is fetched like any other image."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from common.errors import SettingsError, StoreAccessDenied, StoreUnavailable
from common.format.reasons import Reason
from common.store.s3.endpoint import endpoint_of_environment
from common.store.s3.location import S3Location
from worker.fetch.image_url import HttpUrl, parse_http_url, same_server
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.store.s3.presigner import Presigner

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
"""Plain bucket names only, because an ARN in a list from the internet may name an endpoint elsewhere."""


AHEAD_SECONDS = 300
"""Longest time in seconds between a signature and its first use. The SDK renews credentials earlier than that before
they expire."""

MOST_AHEAD = 10_000
"""Number of signed URLs from which no others are made ahead: their rows wait for a slow site."""


class _Signed(NamedTuple):
    url: HttpUrl
    signed_at: float


class ObjectUrls:
    """Signs with this process's credentials. It loads the SDK when the first `s3://` image comes, which takes 0.3 s."""

    def __init__(self) -> None:
        self._presigner: Presigner | None = None
        self._lock = asyncio.Lock()
        self._servers: dict[str, HttpUrl] = {}
        """A URL on its server for each bucket of which a URL was signed."""
        self._ahead: dict[str, tuple[HttpUrl, float]] = {}
        """Signed URLs that wait for their use, each with the time of its signature."""
        self._of_files: dict[str, _Signed] = {}
        """Signed URLs of the files that hold many images each."""

    def endpoints(self) -> list[HttpUrl]:
        """Return the endpoint of S3 that a person has set, an empty list if there is none."""
        value = endpoint_of_environment()
        if value is None:
            from common.store.s3.session import own_endpoint  # noqa: PLC0415 - see the class

            value = own_endpoint()
        if not value:
            return []
        try:
            return [parse_http_url(value)]
        except ImageFailed as failure:
            raise SettingsError(
                "the endpoint of S3, from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile, is not an http or "
                f"https URL: {failure.detail}"
            ) from failure

    @property
    def signs_ahead(self) -> bool:
        """Whether `sign_ahead` may sign now. Without `s3://` images it never may."""
        presigner = self._presigner
        return presigner is not None and not presigner.may_block and len(self._ahead) < MOST_AHEAD

    def server_of(self, bucket: str) -> HttpUrl | None:
        """Return a URL on the server that has the bucket, None if no URL of the bucket was signed yet."""
        return self._servers.get(bucket)

    def sign_ahead(self, texts: Iterable[str]) -> None:
        """Sign those of the URLs for which nothing has to be loaded, and keep the signed URLs for `signed_ahead`.

        To sign many URLs at once takes a fraction of the time, because the code of a signature leaves the CPU's cache
        between two images.
        """
        presigner = self._presigner
        if presigner is None or not self.signs_ahead:
            return
        now = time.monotonic()
        for text in texts:
            bucket, _, key = text.removeprefix("s3://").partition("/")
            server = self._servers.get(bucket)
            if server is None or not key or not text.startswith("s3://"):
                continue
            try:
                self._ahead[text] = same_server(server, _sign(presigner, bucket, key)), now
            except ImageFailed:
                continue  # `sign` raises it again, for the image that needs the URL
            except (StoreAccessDenied, StoreUnavailable):
                return

    def signed_ahead(self, text: str) -> HttpUrl | None:
        """Return the URL that was signed ahead, valid for almost an hour. None if `sign` is needed."""
        ahead = self._ahead.get(text)
        if ahead is None:
            return None
        url, signed_at = ahead
        return url if time.monotonic() - signed_at < AHEAD_SECONDS else None

    def forget_ahead(self, text: str) -> None:
        """Forget the URL that was signed ahead, because it is used now."""
        self._ahead.pop(text, None)

    async def sign(self, text: str) -> HttpUrl:
        """Return a signed URL of `s3://bucket/key`, valid for almost an hour.

        Raises ImageFailed (invalid_url), and StoreAccessDenied or StoreUnavailable if there are no credentials.
        """
        bucket, _, key = text[len("s3://") :].partition("/")
        server = self._servers.get(bucket)
        if text[: len("s3://")].lower() != "s3://" or not key or not (server or _BUCKET.fullmatch(bucket)):
            raise ImageFailed(Reason.INVALID_URL, "it does not name an object, as s3://bucket/key does")
        presigner = self._presigner or await self._load_presigner()
        if server is not None and not presigner.may_block:
            return same_server(server, _sign(presigner, bucket, key))
        # What may take long runs in a thread: the first URL of a bucket loads a client, and credentials are renewed. It
        # runs once for all images that wait for it: at the start there are a thousand.
        async with self._lock:
            server = self._servers.get(bucket)
            if server is not None and not presigner.may_block:
                return same_server(server, _sign(presigner, bucket, key))
            signed = parse_http_url(await asyncio.to_thread(_sign, presigner, bucket, key))
            self._servers[bucket] = signed
            return signed

    async def sign_file(self, text: str) -> HttpUrl:
        """Return a signed URL of a file that holds many images: the same one for some minutes. Raises like `sign`."""
        known = self._of_files.get(text)
        if known is None or time.monotonic() - known.signed_at >= AHEAD_SECONDS:
            now = time.monotonic()
            known = self._of_files[text] = _Signed(await self.sign(text), now)
        return known.url

    async def _load_presigner(self) -> Presigner:
        async with self._lock:
            if self._presigner is None:
                self._presigner = await asyncio.to_thread(_presigner)
            return self._presigner


def _presigner() -> Presigner:
    from common.store.s3.presigner import Presigner  # noqa: PLC0415 - see ObjectUrls

    return Presigner()


def _sign(presigner: Presigner, bucket: str, key: str) -> str:
    try:
        return presigner.sign(S3Location(bucket, key))
    except (SettingsError, UnicodeEncodeError) as error:
        raise ImageFailed(Reason.INVALID_URL, "S3 does not allow this bucket name or key") from error
