"""Signed URLs of S3 objects, so that any HTTP client can fetch them with this process's credentials."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from common.settings import S3Settings, read_settings
from common.store.s3.client import Credentials, s3_client, s3_errors, unsigned_client
from common.store.s3.sigv4 import Server, Signer, server_of

if TYPE_CHECKING:
    from common.store.s3.location import S3Location


class _Base(NamedTuple):
    """What the URLs of a bucket's keys begin with."""

    server: Server
    path: str


class Presigner:
    """Signs URLs that GET an object."""

    def __init__(self, *, expires_seconds: int = 3600) -> None:
        self._region = s3_client().meta.region_name
        self._credentials = Credentials()
        self._is_payer = read_settings(S3Settings).s3_requester_pays
        self._expires_seconds = expires_seconds
        self._bases: dict[str, _Base] = {}
        self._signer_since: tuple[Signer | None, int] = None, 0

    def sign(self, location: S3Location) -> str:
        """Return a URL that GETs the object. Without credentials it is unsigned, which public buckets allow."""
        bucket, key = location
        server, prefix = self._bases.get(bucket) or self._base(bucket)
        path = prefix + quote(key, safe="/~")
        signer, since = self._signer_since
        now = int(time.time())
        if now != since:
            signer = self._signer(location, now)
        return f"{server.url}{path}" if signer is None else signer.presigned_url(server, path)

    @property
    def may_block(self) -> bool:
        """Whether the next signature may wait for the network, because the credentials must be renewed."""
        return self._credentials.must_be_renewed

    def _signer(self, location: S3Location, now: int) -> Signer | None:
        with s3_errors(location):
            key = self._credentials.key()
        signer = None
        if key is not None:
            signer = Signer(
                key, region=self._region, expires_seconds=self._expires_seconds, now=now, is_payer=self._is_payer
            )
        self._signer_since = signer, now
        return signer

    def _base(self, bucket: str) -> _Base:
        """Return where the bucket is by the SDK's endpoint and addressing style."""
        with s3_errors(bucket):
            url = unsigned_client().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"})
        url = url.partition("?")[0]
        server = server_of(url)
        base = self._bases[bucket] = _Base(server, url[len(server.url) :].removesuffix("x"))
        return base
