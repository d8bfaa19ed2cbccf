"""URLs by which objects in S3 are fetched like any image, signed with this process's credentials."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING

from common.errors import SettingsError
from common.format.reasons import Reason
from common.store.s3.location import S3Location
from worker.fetch.image_url import parse_http_url
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from yarl import URL

    from common.store.s3.presigner import Presigner

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
"""Plain names alone: an ARN in a list from the internet could name an endpoint elsewhere."""


class ObjectUrls:
    """Makes the SDK's client when the first `s3://` image comes: a run without any loads no SDK."""

    def __init__(self) -> None:
        self._presigner: Presigner | None = None
        self._lock = asyncio.Lock()
        self._buckets: set[str] = set()

    def endpoints(self) -> list[URL]:
        """Return the endpoint that the SDK's variables name, if they do."""
        value = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if not value:
            return []
        try:
            return [parse_http_url(value)]
        except ImageFailed as failure:
            raise SettingsError(f"AWS_ENDPOINT_URL is no http or https URL: {failure.detail}") from failure

    async def sign(self, text: str) -> URL:
        """Return a signed URL of `s3://bucket/key`, valid for an hour.

        Raises ImageFailed (invalid_url), and StoreAccessDenied or StoreUnavailable when credentials cannot be had.
        """
        bucket, _, key = text[len("s3://") :].partition("/")
        if not text.lower().startswith("s3://") or not _BUCKET.fullmatch(bucket) or not key:
            raise ImageFailed(Reason.INVALID_URL, "it names no object; s3://bucket/key does")
        presigner = self._presigner or await self._new_presigner()
        # What may take long is done in a thread: the first URL of a bucket loads a client, credentials expire.
        if bucket in self._buckets and not presigner.may_block:
            return parse_http_url(_sign(presigner, bucket, key))
        signed = await asyncio.to_thread(_sign, presigner, bucket, key)
        self._buckets.add(bucket)
        return parse_http_url(signed)

    async def _new_presigner(self) -> Presigner:
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
        raise ImageFailed(Reason.INVALID_URL, "S3 has no such bucket or key names") from error
