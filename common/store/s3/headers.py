"""What is changed in the SDK's requests and answers, because not every store does what the SDK expects."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

from common.store.s3.sigv4 import REQUEST_PAYER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_s3 import S3Client

    from common.settings import S3Settings


_AFTER_BLANKS = re.compile(rb"\s+(?:<\?xml[^>]*>\s*)?<(?:CompleteMultipartUploadResult|CopyPartResult)\b")
"""The beginning of an answer with success that comes after blanks."""

_REDIRECTS = {301, 302, 307}
"""The HTTP statuses of redirects by which the SDK looks for the bucket's region."""


def register(client: S3Client, settings: S3Settings) -> None:
    """Let the client send the headers that the settings ask for, and the check sum that every store knows.

    The client also takes answers with blanks before them, and does not follow redirects that name no region.
    """
    events = client.meta.events
    events.register("before-call.s3.DeleteObjects", _send_md5)
    for operation in ("CompleteMultipartUpload", "UploadPartCopy"):
        events.register(f"before-parse.s3.{operation}", _strip)
    events.register_first("needs-retry.s3", _stay)
    expectation = _Expectation()
    events.register_last("before-call.s3", expectation.drop)
    events.register("needs-retry.s3", expectation.give_up)  # type: ignore[arg-type]  # the stubs know no such handlers
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


def _strip(response_dict: dict[str, Any], **_: object) -> None:
    # While a store puts a large object together, it sends blanks to keep the connection open. Some send them before the
    # XML declaration. The SDK takes that for a broken answer, and gives it the status 500.
    body = response_dict.get("body")
    if isinstance(body, bytes) and _AFTER_BLANKS.match(body):
        response_dict |= {"body": body.lstrip(), "status_code": 200}


def _stay(request_dict: dict[str, Any], response: Any, **_: object) -> None:  # noqa: ANN401 - a pair, or None
    # The SDK looks for the region of a bucket that is elsewhere, with a request that is redirected too, and so on.
    redirect = request_dict["context"].get("s3_redirect")
    if response is None or redirect is None or response[0].status_code not in _REDIRECTS:
        return
    if "x-amz-bucket-region" not in response[0].headers:
        redirect["redirected"] = True


class _Expectation:
    """The header Expect, with which the SDK waits for the server's consent before it sends content.

    A server that does not know it answers 417. Then the request is sent without it, and so are all later ones.
    """

    def __init__(self) -> None:
        self._is_refused = False

    def drop(self, params: dict[str, Any], **_: object) -> None:
        if self._is_refused:
            params["headers"].pop("Expect", None)

    def give_up(self, request_dict: dict[str, Any], response: Any, **_: object) -> int | None:  # noqa: ANN401 - as above
        if response is None or response[0].status_code != 417 or not request_dict["headers"].pop("Expect", None):
            return None
        self._is_refused = True
        return 0  # the seconds until the request is sent again


def _send_md5(params: dict[str, Any], **_: object) -> None:
    # The SDK sends a CRC32. Backblaze B2 refuses its headers, and MinIO, Ceph and others demand the MD5 instead.
    params["context"].pop("checksum", None)
    params["headers"]["Content-MD5"] = base64.b64encode(
        hashlib.md5(params["body"], usedforsecurity=False).digest()
    ).decode()
