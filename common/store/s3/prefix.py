"""A prefix in a bucket: what the S3 store, its conditional writes and its assemblies share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from common.store.contract import ObjectAbsent, ObjectStat
from common.store.s3.client import current_client, s3_client
from common.store.s3.errors import RangeBeyondEnd
from common.store.s3.location import S3Location, parse_s3_uri
from common.store.s3.request import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_s3 import S3Client


SETTLING_SECONDS = 7.5
"""The time in seconds for which a store may not show what was just written or deleted. Those of several sites, and
caches before a store, take a moment."""

FIRST_LOOK_SECONDS = 0.5
"""The pause in seconds before the second look. Each later one is twice as long."""


class S3Prefix:
    """The keys below `s3://bucket/prefix`. Raises SettingsError when the URI names no bucket."""

    def __init__(self, uri: str) -> None:
        location = parse_s3_uri(uri)
        self.bucket = location.bucket
        self.path = f"{location.key.strip('/')}/" if location.key.strip("/") else ""
        """The start of every full key: empty, or a text that ends with a slash."""
        self._client = s3_client()
        self.has_list_objects_v2 = True
        """Whether the store is asked for lists by ListObjectsV2. The first refusal ends that."""

    @property
    def client(self) -> S3Client:
        """The client of these keys: a new one once the store has demanded another addressing style."""
        self._client = current_client(self._client)
        return self._client

    def full_key(self, key: str) -> str:
        return self.path + key

    def location(self, key: str) -> S3Location:
        return S3Location(self.bucket, self.full_key(key))

    def stat(self, key: str) -> ObjectStat | None:
        """Return what the store knows about an object, None when there is no such object."""

        def look() -> Mapping[str, Any]:
            head = self.client.head_object(Bucket=self.bucket, Key=self.full_key(key))
            version_of(head)
            return head

        try:
            head = ask(self.location(key), look)
            size = head["ContentLength"] if "ContentLength" in head else self._measure(key)
        except ObjectAbsent:
            return None
        return ObjectStat(key, size, version_of(head))

    def stat_when(self, key: str, is_settled: Callable[[ObjectStat | None], bool]) -> ObjectStat | None:
        """Return what the store knows about an object once `is_settled`, or what it knows after a few seconds."""
        waited_seconds, pause_seconds = 0.0, FIRST_LOOK_SECONDS
        while not is_settled(found := self.stat(key)) and waited_seconds < SETTLING_SECONDS:
            time.sleep(pause_seconds)
            waited_seconds += pause_seconds
            pause_seconds *= 2
        return found

    def _measure(self, key: str) -> int:
        """Return the size of an object that a look does not tell, because a proxy that compresses leaves it out."""

        def look() -> int:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.full_key(key), Range="bytes=0-0")
            answer["Body"].close()
            return int(answer["ContentRange"].rpartition("/")[2])

        try:
            return ask(self.location(key), look)
        except RangeBeyondEnd:
            return 0


def version_of(answer: Mapping[str, Any]) -> str:
    """Return what an answer says about the version of its object: the ETag, or the time of the last write without one.

    Raises KeyError when it says neither. Then it is not an answer of S3.
    """
    return etag_text(answer["ETag"]) if answer.get("ETag") else answer["LastModified"].isoformat()


def etag_text(etag: str) -> str:
    """Return an ETag without quotes and without the mark of a weak one, which a proxy that compresses adds."""
    return etag.removeprefix("W/").strip('"')
