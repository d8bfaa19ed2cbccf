"""An S3 object put together by a multipart upload, whose parts S3 can take from ranges of other objects."""

from __future__ import annotations

import base64
import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.errors import EmbedderError, StoreUnavailable
from common.logs import log
from common.s3 import PATIENCE_SECONDS, StoreFault, ask
from common.store import AssemblyGone, ObjectAbsent, ObjectExists, ObjectStat, PartLimits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, MultipartUploadTypeDef

    from common.s3_store import S3Store

S3_PART_LIMITS = PartLimits(min_bytes=5 << 20, max_bytes=5 << 30, max_count=10_000)
"""S3's limits on multipart uploads (Amazon S3 User Guide, "Amazon S3 multipart upload limits")."""

ABORT_SECONDS = 3
"""How long the abort of an assembly that failed, or was told to stop, is tried."""


class S3Assembly:
    is_readable = False

    def __init__(self, store: S3Store, key: str, upload_id: str, *, replacing: ObjectStat | None) -> None:
        self._store, self._key, self._upload_id, self._replacing = store, key, upload_id, replacing
        self._name = store.location(key)
        self._etags: dict[int, str] = {}

    def upload(self, number: int, offset: int, data: bytes | bytearray) -> None:  # noqa: ARG002 - parts are in order
        md5 = hashlib.md5(data, usedforsecurity=False).digest()

        def send() -> str:
            answer = self._store.client.upload_part(
                Bucket=self._store.bucket,
                Key=self._store.prefix + self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=data,  # type: ignore[arg-type]  # the SDK takes a bytearray
                ContentLength=len(data),
                ContentMD5=base64.b64encode(md5).decode(),
            )
            return answer["ETag"]

        self._etags[number] = ask(self._name, send)

    def copy(self, number: int, offset: int, source: ObjectStat, start: int, length: int) -> None:  # noqa: ARG002
        name = self._store.name(source.key)

        def send() -> str:
            answer = self._store.client.upload_part_copy(
                Bucket=self._store.bucket,
                Key=self._store.prefix + self._key,
                UploadId=self._upload_id,
                PartNumber=number,
                CopySource={"Bucket": name.bucket, "Key": name.key},
                CopySourceRange=f"bytes={start}-{start + length - 1}",
                CopySourceIfMatch=f'"{source.version}"',
            )
            if not (etag := answer.get("CopyPartResult", {}).get("ETag")):
                raise StoreFault(f"{self._name}: the store answered a copy of part {number} with no ETag")
            return etag

        try:
            self._etags[number] = ask(name, send)
        except (ObjectAbsent, ObjectExists) as error:
            raise StoreUnavailable(f"{name} was replaced or deleted while it was copied") from error

    def read(self, start: int, length: int) -> bytes:
        raise NotImplementedError("a multipart upload can be read once it is published")

    def publish(self) -> ObjectStat:
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())
        ]

        def complete(condition: Mapping[str, str]) -> None:
            ask(
                self._name,
                lambda: self._store.client.complete_multipart_upload(
                    Bucket=self._store.bucket,
                    Key=self._store.prefix + self._key,
                    UploadId=self._upload_id,
                    MultipartUpload={"Parts": parts},
                    **condition,  # type: ignore[arg-type]
                ),
            )

        try:
            self._store.conditions.write(self._key, complete, replacing=self._replacing)
        except ObjectAbsent as absent:  # what was to be replaced is gone
            raise ObjectExists(self._name) from absent
        published = self._store.stat(self._key)
        if published is None:
            raise StoreUnavailable(f"{self._name} vanished right after it was published")
        return published

    def abort(self) -> None:
        _abort(self._store, self._key, self._upload_id)


@contextmanager
def multipart_upload(store: S3Store, key: str, *, replacing: ObjectStat | None) -> Iterator[S3Assembly]:
    """Begin a multipart upload; whatever ends the block before `publish` was done aborts it."""
    upload_id = ask(
        store.location(key),
        lambda: store.client.create_multipart_upload(Bucket=store.bucket, Key=store.prefix + key)["UploadId"],
    )
    try:
        yield S3Assembly(store, key, upload_id, replacing=replacing)
    except BaseException:
        _abort_in_passing(store, key, upload_id)
        raise


def _abort(store: S3Store, key: str, upload_id: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    ask(
        store.location(key),
        lambda: store.client.abort_multipart_upload(Bucket=store.bucket, Key=store.prefix + key, UploadId=upload_id),
        patience_seconds=patience_seconds,
    )


def _abort_in_passing(store: S3Store, key: str, upload_id: str) -> None:
    # What ends the block is the news, and does not wait long: an upload that cannot be aborted is left to the next
    # merge, which looks for it.
    try:
        _abort(store, key, upload_id, patience_seconds=ABORT_SECONDS)
    except (AssemblyGone, ObjectAbsent):
        return
    except EmbedderError as error:
        log.warning("upload_not_aborted", object=store.location(key), error=str(error))


def abort_uploads(store: S3Store, key: str, *, begun_before: datetime | None = None) -> int:
    """Abort the multipart uploads of exactly `key`, all or those begun before a time; return how many there were."""
    full_key = store.prefix + key

    def look() -> list[MultipartUploadTypeDef]:
        pages = store.client.get_paginator("list_multipart_uploads").paginate(Bucket=store.bucket, Prefix=full_key)
        return [upload for page in pages for upload in page.get("Uploads", []) if upload["Key"] == full_key]

    aborted = 0
    for upload in ask(store.location(key), look):
        if begun_before is not None and upload["Initiated"] >= begun_before:
            continue
        try:
            _abort(store, key, upload["UploadId"])
        except (AssemblyGone, ObjectAbsent):
            continue
        aborted += 1
    return aborted
