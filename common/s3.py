"""The door to S3: the one module that imports boto3. S3 is configured by the SDK's own variables and files."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import boto3
from botocore import UNSIGNED
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)
from urllib3.exceptions import ProtocolError

from common.errors import SettingsError, StoreAccessDenied, StoreUnavailable
from common.store import AssemblyGone, ObjectAbsent, ObjectExists

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.config import _RetryDict
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 12
"""Attempts of one request, with jittered backoff of up to 20 s: together about two minutes, the length of a store's
restart. AWS_MAX_ATTEMPTS overrides it."""

POOL_CONNECTIONS = 72
"""Kept open for the next request: those of a merge with 32 copies, 32 reads and 4 uploads under way."""

READ_ATTEMPTS = 5
"""Of a body that breaks off while it is read."""

_ABSENT = {"404", "NoSuchKey", "NotFound"}
_DENIED = {
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "ExpiredToken",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidBucketName",
    "InvalidToken",
    "NoSuchBucket",
    "PermanentRedirect",
    "SignatureDoesNotMatch",
}

_UNSUPPORTED = {"InvalidArgument", "InvalidRequest", "NotImplemented", "NotSupported"}
"""What stores say to requests, and conditions of requests, that they do not know."""


class RequestUnsupported(StoreUnavailable):
    """The store says that it knows no such request."""


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


@cache
def s3_client() -> S3Client:
    """Return this process's client; boto3 clients may be shared between threads."""
    retries: _RetryDict = {"mode": "standard"}
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = ATTEMPTS
    config = Config(
        retries=retries,
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=POOL_CONNECTIONS,
        tcp_keepalive=True,
    )
    try:
        return boto3.client("s3", config=config)
    except NoRegionError as error:
        raise StoreAccessDenied("S3 has no region; set AWS_REGION") from error
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"S3 cannot be set up: {error}") from error


@contextmanager
def s3_errors(what: object) -> Iterator[None]:
    """Turn the SDK's errors about `what` into ours: absent, exists, gone, denied (78), or unavailable (75)."""
    try:
        yield
    except ClientError as error:
        raise _client_error(error, what) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreAccessDenied(
            f"no credentials for {what}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
            "give the pod a workload identity"
        ) from error
    except ParamValidationError as error:
        raise SettingsError(f"{what} is no valid S3 name: {' '.join(str(error).split())}") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"{what}: {error}") from error


def _client_error(error: ClientError, what: object) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _ABSENT:
        return ObjectAbsent(str(what))
    if code == "NoSuchUpload":
        return AssemblyGone(str(what))
    if code in {"PreconditionFailed", "ConditionalRequestConflict", "412"} or status == 412:
        return ObjectExists(str(what))
    if code in _DENIED or status in {401, 403}:
        return StoreAccessDenied(
            f"{what}: {code}{': ' if message else ''}{message}; check the bucket's name, the "
            "credentials and their permission to list, read, write and delete"
        )
    kind = RequestUnsupported if status == 501 or code in _UNSUPPORTED else StoreUnavailable
    return kind(f"{what}: {code or status} {message}".rstrip())


class ObjectRange(NamedTuple):
    data: bytes
    size: int
    """Bytes of the whole object."""
    etag: str


def read_object(location: S3Location, *, start: int = 0, length: int | None = None) -> ObjectRange:
    """Return `length` bytes of the object from `start`, or all from there; fewer where the object ends before.

    Raises ObjectAbsent where there is no such object. An answer that breaks off is asked for again: the SDK retries
    requests, not bodies.
    """
    wanted = f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"
    for attempt in range(1, READ_ATTEMPTS + 1):
        with s3_errors(location):
            try:
                answer = s3_client().get_object(Bucket=location.bucket, Key=location.key, Range=wanted)
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 416:
                    raise
                # The object ends before the range begins; an empty one before any.
                head = s3_client().head_object(Bucket=location.bucket, Key=location.key)
                return ObjectRange(b"", head["ContentLength"], head["ETag"].strip('"'))
            try:
                data = answer["Body"].read()
            except (BotoCoreError, ProtocolError, OSError) as error:
                if attempt == READ_ATTEMPTS:
                    raise StoreUnavailable(f"{location}: the answer broke off {attempt} times: {error}") from error
                continue
        whole = answer.get("ContentRange", "").rpartition("/")[2]
        return ObjectRange(data, int(whole) if whole.isdigit() else len(data), answer["ETag"].strip('"'))
    raise AssertionError("unreachable: the last attempt returns or raises")


class Presigner:
    """Signs GET URLs of objects, so that any HTTP client can fetch them with this process's credentials.

    Signing with botocore's signer directly takes 0.06 ms, generate_presigned_url 0.25 ms: as much as the GET itself.
    """

    def __init__(self, *, expires_seconds: int = 3600) -> None:
        self._client = s3_client()
        session = boto3.DEFAULT_SESSION
        self._credentials = session.get_credentials() if session else None
        self._expires_seconds = expires_seconds
        self._bases: dict[str, str] = {}

    def sign(self, location: S3Location) -> str:
        """Return a URL that GETs the object. Without credentials it is unsigned, which public buckets allow."""
        request = AWSRequest(method="GET", url=self.base_url(location.bucket) + quote(location.key, safe="/~"))
        if self._credentials is not None:
            with s3_errors(location):
                frozen = self._credentials.get_frozen_credentials()
                region = self._client.meta.region_name
                S3SigV4QueryAuth(frozen, "s3", region, expires=self._expires_seconds).add_auth(request)
        return str(request.url)

    @property
    def may_block(self) -> bool:
        """Whether the next signature may wait for the network: the credentials are due for renewal."""
        refresh_needed = getattr(self._credentials, "refresh_needed", None)
        return refresh_needed is not None and bool(refresh_needed())

    def base_url(self, bucket: str) -> str:
        """Return the URL below which the bucket's keys lie, with the endpoint and addressing style of the SDK."""
        if bucket not in self._bases:
            with s3_errors(bucket):
                url = _unsigned_client().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"})
            self._bases[bucket] = url.partition("?")[0].removesuffix("x")
        return self._bases[bucket]


@cache
def _unsigned_client() -> S3Client:
    return boto3.client("s3", config=Config(signature_version=UNSIGNED))


def clear_clients() -> None:
    """Forget the clients, so that the next is made from the environment as it is then."""
    s3_client.cache_clear()
    _unsigned_client.cache_clear()
    boto3.DEFAULT_SESSION = None
