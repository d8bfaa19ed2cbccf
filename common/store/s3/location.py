"""The name of an object, or of a prefix, in S3."""

from __future__ import annotations

from typing import NamedTuple

from common.errors import SettingsError


class S3Location(NamedTuple):
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def parse_s3_uri(uri: str) -> S3Location:
    """Return bucket and key of `s3://bucket/key`; the key may be empty. Raises SettingsError without a bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise SettingsError(f"{uri!r} names no bucket; write s3://bucket/prefix")
    return S3Location(bucket, key)
