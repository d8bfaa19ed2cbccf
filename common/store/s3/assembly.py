"""An S3 object that a multipart upload puts together. S3 can copy its parts from ranges of other objects."""

from __future__ import annotations

import base64
import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.errors import EmbedderError, StoreAccessDenied, StoreUnavailable
from common.logs import log
from common.store.contract import (
    AssemblyGone,
    AssemblyRefused,
    ObjectAbsent,
    ObjectExists,
    ObjectStat,
    PartLimits,
)
from common.store.s3.errors import RequestRefused, StoreFault
from common.store.s3.request import PATIENCE_SECONDS, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, MultipartUploadTypeDef

    from common.store.s3.conditions import ConditionalWrites
    from common.store.s3.prefix import S3Prefix

S3_PART_LIMITS = PartLimits(min_bytes=5 << 20, max_bytes=5 << 30, max_count=10_000)
"""S3's limits on multipart uploads (Amazon S3 User Guide, "Amazon S3 multipart upload limits")."""

ETAG_ATTEMPTS = 3
"""The number of answers without the ETag of a copied part until the store counts as one that cannot copy: a single one
may be a fault."""

ABORT_SECONDS = 3
"""The time in seconds from the first failure until the abort of an upload is given up.

An assembly is aborted when it fails or when the program must stop. Neither can wait for a store that does not answer.
"""


class S3Assembly:
    """A multipart upload that has begun."""

    is_readable = False

    def __init__(
        self,
        prefix: S3Prefix,
        key: str,
        upload_id: str,
        *,
        conditions: ConditionalWrites,
        replacing: ObjectStat | None,
    ) -> None:
        self._prefix, self._key, self._upload_id, self._replacing = prefix, key, upload_id, replacing
        self._conditions = conditions
        self._location = prefix.location(key)
        self._etags: dict[int, str] = {}
        self._copies_are_conditional = True

    def upload(self, number: int, offset: int, data: bytes | bytearray) -> None:  # noqa: ARG002 - numbers are enough
        md5 = hashlib.md5(data, usedforsecurity=False).digest()

        def send() -> str:
            answer = self._prefix.client.upload_part(
                Bucket=self._location.bucket,
                Key=self._location.key,
                UploadId=self._upload_id,
                PartNumber=number,
                Body=data,  # type: ignore[arg-type]  # the SDK takes a bytearray
                ContentLength=len(data),
                ContentMD5=base64.b64encode(md5).decode(),
            )
            return answer["ETag"]

        try:
            self._etags[number] = ask(self._location, send)
        except RequestRefused as refused:
            raise AssemblyRefused(str(refused)) from refused

    def copy(self, number: int, offset: int, source: ObjectStat, start: int, length: int) -> None:  # noqa: ARG002
        name = self._prefix.location(source.key)
        without_etag = 0

        def send(condition: Mapping[str, str]) -> str:
            nonlocal without_etag
            answer = self._prefix.client.upload_part_copy(
                Bucket=self._location.bucket,
                Key=self._location.key,
                UploadId=self._upload_id,
                PartNumber=number,
                CopySource={"Bucket": name.bucket, "Key": name.key},
                CopySourceRange=f"bytes={start}-{start + length - 1}",
                **condition,  # type: ignore[arg-type]
            )
            if not (etag := answer.get("CopyPartResult", {}).get("ETag")):
                without_etag += 1
                kind = StoreFault if without_etag < ETAG_ATTEMPTS else StoreUnavailable
                raise kind(f"{self._location}: the store sent no ETag for the copy of part {number}")
            return etag

        try:
            if self._copies_are_conditional:
                try:
                    self._etags[number] = ask(name, lambda: send({"CopySourceIfMatch": f'"{source.version}"'}))
                except RequestRefused as refused:
                    self._copy_without_condition(number, source, send, refused)
            else:
                self._copy_without_condition(number, source, send, None)
        except (ObjectAbsent, ObjectExists) as error:
            raise StoreUnavailable(f"{name} was replaced or deleted while it was copied") from error

    def _copy_without_condition(
        self,
        number: int,
        source: ObjectStat,
        send: Callable[[Mapping[str, str]], str],
        refused: RequestRefused | None,
    ) -> None:
        """Copy a part, and look afterwards whether the source is still the object that was to be copied."""
        etag = ask(self._prefix.location(source.key), lambda: send({}))
        if refused is not None and self._copies_are_conditional:
            self._copies_are_conditional = False
            log.warning("store_without_conditional_copies", error=str(refused))
        if self._prefix.stat(source.key) != source:
            raise ObjectExists(str(self._prefix.location(source.key)))
        self._etags[number] = etag

    def read(self, start: int, length: int) -> bytes:
        raise NotImplementedError("a multipart upload cannot be read before it is published")

    def publish(self) -> ObjectStat:
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": etag} for number, etag in sorted(self._etags.items())
        ]

        def complete(condition: Mapping[str, str]) -> None:
            ask(
                self._location,
                lambda: self._prefix.client.complete_multipart_upload(
                    Bucket=self._location.bucket,
                    Key=self._location.key,
                    UploadId=self._upload_id,
                    MultipartUpload={"Parts": parts},
                    **condition,  # type: ignore[arg-type]
                ),
            )

        try:
            self._conditions.write(self._key, complete, replacing=self._replacing)
        except ObjectAbsent as absent:  # the object to replace is gone
            raise ObjectExists(str(self._location)) from absent
        except RequestRefused as refused:
            raise AssemblyRefused(str(refused)) from refused
        published = self._prefix.stat_when(self._key, lambda found: found not in (None, self._replacing))
        if published is None:
            raise StoreUnavailable(f"{self._location} is absent right after it was published")
        return published

    def abort(self) -> None:
        _abort(self._prefix, self._key, self._upload_id)


@contextmanager
def multipart_upload(
    prefix: S3Prefix, key: str, *, conditions: ConditionalWrites, replacing: ObjectStat | None
) -> Iterator[S3Assembly]:
    """Begin a multipart upload. An exception in the block aborts it."""
    upload_id = ask(
        prefix.location(key),
        lambda: prefix.client.create_multipart_upload(Bucket=prefix.bucket, Key=prefix.full_key(key))["UploadId"],
    )
    try:
        yield S3Assembly(prefix, key, upload_id, conditions=conditions, replacing=replacing)
    except BaseException:
        _try_to_abort(prefix, key, upload_id)
        raise


def _abort(prefix: S3Prefix, key: str, upload_id: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
    ask(
        prefix.location(key),
        lambda: prefix.client.abort_multipart_upload(
            Bucket=prefix.bucket, Key=prefix.full_key(key), UploadId=upload_id
        ),
        patience_seconds=patience_seconds,
    )


def _try_to_abort(prefix: S3Prefix, key: str, upload_id: str) -> None:
    # The exception that ends the block matters more. The next merge aborts an upload that stays.
    try:
        _abort(prefix, key, upload_id, patience_seconds=ABORT_SECONDS)
    except (AssemblyGone, ObjectAbsent):
        return
    except EmbedderError as error:
        log.warning("upload_not_aborted", object=prefix.location(key), error=str(error))


def abort_uploads(prefix: S3Prefix, key: str) -> int:
    """Abort the multipart uploads of exactly `key`. Return their number.

    Where the store does not list uploads, or refuses to abort them, they stay, and the log says so.
    """
    full_key = prefix.full_key(key)

    def look() -> list[MultipartUploadTypeDef]:
        pages = prefix.client.get_paginator("list_multipart_uploads").paginate(Bucket=prefix.bucket, Prefix=full_key)
        return [upload for page in pages for upload in page.get("Uploads", []) if upload["Key"] == full_key]

    aborted = 0
    try:
        uploads = ask(prefix.location(key), look)
    except (StoreUnavailable, StoreAccessDenied, ObjectAbsent) as error:
        log.warning("uploads_not_listed", object=prefix.location(key), error=str(error))
        return 0
    for upload in uploads:
        try:
            _abort(prefix, key, upload["UploadId"])
        except (AssemblyGone, ObjectAbsent):
            continue
        except (RequestRefused, StoreAccessDenied) as error:
            log.warning("uploads_stay", object=prefix.location(key), uploads=len(uploads) - aborted, error=str(error))
            break
        aborted += 1
    return aborted
