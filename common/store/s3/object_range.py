"""Reading a range of an S3 object."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from common.errors import StoreUnavailable
from common.store.s3.client import s3_client
from common.store.s3.errors import RangeBeyondEnd, StoreFault
from common.store.s3.prefix import etag_text, version_of
from common.store.s3.request import ask

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

    from common.store.s3.location import S3Location

_MD5 = re.compile("[0-9a-f]{32}")


WHOLE_BYTES = 256 << 20
"""The size in bytes of the largest object that is read as a whole where a store does not send ranges."""


class ObjectRange(NamedTuple):
    data: bytes
    size: int
    """The size of the whole object in bytes."""
    etag: str


def read_object(location: S3Location, *, start: int = 0, length: int | None = None) -> ObjectRange:
    """Return `length` bytes of the object from `start`, or all from there. Fewer bytes when the object ends first.

    Raises ObjectAbsent when there is no such object. The object is read again when an answer breaks off, or when its
    bytes do not have the checksum that the store sends with them.
    """
    wanted = f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"
    doubted = b""

    def receive() -> ObjectRange:
        nonlocal doubted
        answer = s3_client().get_object(Bucket=location.bucket, Key=location.key, Range=wanted)
        if not answer.get("ContentRange") and answer.get("ContentLength", 0) > max(length or 0, WHOLE_BYTES):
            answer["Body"].close()
            raise StoreUnavailable(
                f"{location}: the store, or a proxy before it, ignores the header Range, and the object is too large "
                "to be read as a whole each time; give an endpoint that sends ranges"
            )
        data = answer["Body"].read()
        whole = answer.get("ContentRange", "").rpartition("/")[2]
        size = int(whole) if whole.isdigit() else len(data)
        if whole and len(data) != (size - start if length is None else min(length, size - start)):
            raise StoreFault(f"{location}: the store sent {len(data)} bytes for {wanted} of {size}")
        # The same bytes a second time are believed: some stores have ETags that look like an MD5 and are not.
        if len(data) == size and not _may_have_etag(data, answer) and data != doubted:
            doubted = data
            raise StoreFault(f"{location}: the bytes received do not have the MD5 that the ETag says")
        if not whole:  # the store has sent the whole object
            data = data[start:] if length is None else data[start : start + length]
        return ObjectRange(data, size, version_of(answer))

    def look() -> ObjectRange:
        head = s3_client().head_object(Bucket=location.bucket, Key=location.key)
        return ObjectRange(b"", head.get("ContentLength", 0), version_of(head))

    try:
        return ask(location, receive)
    except RangeBeyondEnd:  # any range of an empty object
        return ask(location, look)


def _may_have_etag(data: bytes, answer: GetObjectOutputTypeDef) -> bool:
    """Return whether a whole object with these bytes may have this ETag.

    The ETag of an object that was written by one PUT is its MD5, unless the object is encrypted with a key of KMS.
    """
    etag = etag_text(answer.get("ETag", ""))
    is_md5 = _MD5.fullmatch(etag) and answer.get("ServerSideEncryption", "AES256") == "AES256"
    return not is_md5 or hashlib.md5(data, usedforsecurity=False).hexdigest() == etag
