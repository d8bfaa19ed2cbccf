"""Headers of the requests to S3 that the SDK does not send, or that not every store accepts."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from common.store.s3.sigv4 import REQUEST_PAYER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_s3 import S3Client

    from common.settings import S3Settings


def register(client: S3Client, settings: S3Settings) -> None:
    """Let the client send the headers that the settings ask for, and the check sum that every store knows."""
    events = client.meta.events
    events.register("before-call.s3.DeleteObjects", _send_md5)
    if encryption := _encryption(settings):
        for operation in ("PutObject", "CreateMultipartUpload"):
            events.register(f"before-call.s3.{operation}", _adds(encryption))
    if settings.s3_requester_pays:
        events.register("before-call.s3", _adds(dict([REQUEST_PAYER])))


def _encryption(settings: S3Settings) -> Mapping[str, str]:
    headers = {
        "x-amz-server-side-encryption": settings.s3_encryption,
        "x-amz-server-side-encryption-aws-kms-key-id": settings.s3_kms_key_id,
    }
    return {name: value for name, value in headers.items() if value}


def _adds(headers: Mapping[str, str]) -> Any:  # noqa: ANN401 - a handler of the SDK's events
    def add(params: dict[str, Any], **_: object) -> None:
        params["headers"].update(headers)

    return add


def _send_md5(params: dict[str, Any], **_: object) -> None:
    # The SDK sends a CRC32. Backblaze B2 refuses its headers, and MinIO, Ceph and others demand the MD5 instead.
    params["context"].pop("checksum", None)
    params["headers"]["Content-MD5"] = base64.b64encode(
        hashlib.md5(params["body"], usedforsecurity=False).digest()
    ).decode()
