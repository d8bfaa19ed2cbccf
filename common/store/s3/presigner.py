"""Signed URLs of S3 objects, so that any HTTP client can fetch them with this process's credentials."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from common.settings import S3Settings, read_settings
from common.store.s3.client import Credentials, region_of_bucket, unsigned_client
from common.store.s3.errors import s3_errors
from common.store.s3.request import ask
from common.store.s3.sigv4 import Server, Signer, server_of

if TYPE_CHECKING:
    from common.store.s3.location import S3Location

_is_plain = re.compile(r"[A-Za-z0-9/_.~-]*").fullmatch
"""Matches a key of which no character is percent-encoded."""


class _Base(NamedTuple):
    """What the URLs of a bucket's keys begin with, and the region that they are signed for."""

    server: Server
    path: str
    region: str


class Presigner:
    """Signs URLs that GET an object. Waits for the credentials, and raises what `session.sdk` does."""

    def __init__(self, *, expires_seconds: int = 3600) -> None:
        self._credentials = Credentials()
        self._is_payer = read_settings(S3Settings).s3_requester_pays
        self._expires_seconds = expires_seconds
        self._bases: dict[str, _Base] = {}
        self._signed_at = 0
        self._signers: dict[str, Signer | None] = {}
        """The signers of the second `_signed_at`, by region."""

    def sign(self, location: S3Location) -> str:
        """Return a URL that GETs the object. Without credentials it is unsigned, which public buckets allow.

        The first URL of a bucket asks S3 for the bucket's region. Raises StoreUnavailable and StoreAccessDenied.
        """
        bucket, key = location
        server, prefix, region = self._bases.get(bucket) or self._base(bucket)
        path = prefix + (key if _is_plain(key) else quote(key, safe="/~"))
        now = int(time.time())
        if now != self._signed_at:
            self._signed_at, self._signers = now, {}
        try:
            signer = self._signers[region]
        except KeyError:
            signer = self._signers[region] = self._signer(location, region, now)
        return f"{server.url}{path}" if signer is None else signer.presigned_url(server, path)

    @property
    def may_block(self) -> bool:
        """Whether the next signature may wait for the network, because the credentials must be renewed."""
        return self._credentials.must_be_renewed

    def _signer(self, location: S3Location, region: str, now: int) -> Signer | None:
        key = ask(location, self._credentials.key)
        if key is None:
            return None
        return Signer(key, region=region, expires_seconds=self._expires_seconds, now=now, is_payer=self._is_payer)

    def _base(self, bucket: str) -> _Base:
        """Return where the bucket is, by the SDK's endpoint and addressing style and by the bucket's region."""
        region = ask(f"s3://{bucket}", lambda: region_of_bucket(bucket))
        with s3_errors(bucket):
            url = unsigned_client(region=region).generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": "x"}
            )
        url = url.partition("?")[0]
        server = server_of(url)
        base = self._bases[bucket] = _Base(server, url[len(server.url) :].removesuffix("x"), region)
        return base
