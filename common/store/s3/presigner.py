"""Signed URLs of S3 objects, so that any HTTP client can fetch them with this process's credentials."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from common.store.s3.client import Credentials, s3_client, s3_errors, unsigned_client
from common.store.s3.sigv4 import presigned_url

if TYPE_CHECKING:
    from common.store.s3.location import S3Location


class Presigner:
    """Signs URLs that GET an object."""

    def __init__(self, *, expires_seconds: int = 3600) -> None:
        self._region = s3_client().meta.region_name
        self._credentials = Credentials()
        self._expires_seconds = expires_seconds
        self._bases: dict[str, str] = {}

    def sign(self, location: S3Location) -> str:
        """Return a URL that GETs the object. Without credentials it is unsigned, which public buckets allow."""
        url = self.base_url(location.bucket) + quote(location.key, safe="/~")
        with s3_errors(location):
            key = self._credentials.key()
        if key is None:
            return url
        return presigned_url(url, key, region=self._region, expires_seconds=self._expires_seconds, now=time.time())

    @property
    def may_block(self) -> bool:
        """Whether the next signature may wait for the network, because the credentials must be renewed."""
        return self._credentials.must_be_renewed

    def base_url(self, bucket: str) -> str:
        """Return the URL that the URLs of the bucket's keys begin with: the SDK's endpoint and addressing style."""
        if bucket not in self._bases:
            with s3_errors(bucket):
                url = unsigned_client().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"})
            self._bases[bucket] = url.partition("?")[0].removesuffix("x")
        return self._bases[bucket]
