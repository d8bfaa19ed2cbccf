"""The door to S3: the one module that imports boto3. S3 is configured by the SDK's own variables and files."""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - the SDK's name
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from common.errors import SettingsError, StoreAccessDenied, StoreUnavailable
from common.logs import log
from common.process.resources import exhausted_beneath
from common.store.contract import AssemblyGone, ObjectAbsent, ObjectExists
from common.store.s3 import sigv4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

PATIENCE_SECONDS = 120.0
"""From a request's first failure until it is given up: twice what a store takes to restart. The SDK's own retries are
fewer the more requests fail at once, so that an outage ends 30 requests in flight within seconds; they are not used.
AWS_MAX_ATTEMPTS, where it is set, bounds the attempts besides."""

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
"""Before a request is sent again: doubled each time, less a random part of up to a half."""

SILENT_SECONDS = 5.0
"""For so long a request may fail before the log says so: at any time one or another does."""

CONNECT_SECONDS = 10
READ_SECONDS = 60
"""Without a byte of an answer, then the request counts as failed."""

POOL_CONNECTIONS = 72
"""Kept open for the next request: those of a merge with 32 copies, 32 reads and 4 uploads under way."""

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


PASSING_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_PASSING_STATUSES = {408, 429}
_PASSING_ERRORS = (
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)

_MD5 = re.compile("[0-9a-f]{32}")

Answer = TypeVar("Answer")


class RequestUnsupported(StoreUnavailable):
    """The store says that it knows no such request."""


class StoreFault(StoreUnavailable):
    """What may be over when the request is sent again."""


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
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},  # see `ask`
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=POOL_CONNECTIONS,
        tcp_keepalive=True,
    )
    try:
        return boto3.client("s3", config=config)
    except NoRegionError as error:
        raise StoreAccessDenied("S3 has no region; set AWS_REGION") from error
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"S3 cannot be set up: {error}") from error


def ask(what: object, send: Callable[[], Answer], *, patience_seconds: float = PATIENCE_SECONDS) -> Answer:
    """Return what `send`, a request about `what`, returns; sent again while what goes wrong may pass.

    Raises ObjectAbsent, ObjectExists and AssemblyGone, StoreAccessDenied (78), and StoreUnavailable (75) where the
    store refuses, or has failed for `patience_seconds`. What is sent again may have taken effect the first time.
    """
    attempt, first_failure, pause_seconds = 1, 0.0, FIRST_PAUSE_SECONDS
    while True:
        try:
            with s3_errors(what), _answer_errors(what):
                return send()
        except StoreFault as fault:
            now = time.monotonic()
            first_failure = first_failure or now
            left_seconds = patience_seconds - (now - first_failure)
            if left_seconds <= 0 or attempt == _max_attempts():
                raise StoreUnavailable(f"{fault} (attempt {attempt}, the last)") from fault
            if now - first_failure > SILENT_SECONDS:
                log.warning("store_fault", attempt=attempt, given_up_in_s=left_seconds, error=str(fault))
        # The last pause ends with the patience, so that whatever is shorter than that is survived.
        time.sleep(min(random.uniform(pause_seconds / 2, pause_seconds), left_seconds))
        attempt, pause_seconds = attempt + 1, min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


def _max_attempts() -> int | None:
    text = os.environ.get("AWS_MAX_ATTEMPTS", "")
    if text and not text.isdecimal():
        raise SettingsError(f"AWS_MAX_ATTEMPTS is {text!r}; it is a number of attempts")
    return int(text) if text else None


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
    except _PASSING_ERRORS as error:
        # Asking again would hold open what this machine lacks.
        raise exhausted_beneath(error) or StoreFault(f"{what}: {error}") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"{what}: {error}") from error


@contextmanager
def _answer_errors(what: object) -> Iterator[None]:
    """Turn what the SDK lets through where an answer breaks off, or is none of S3's, into StoreFault."""
    try:
        yield
    except (HTTPError, OSError) as error:
        raise StoreFault(f"{what}: the answer broke off: {error}") from error
    except (ResponseParserError, KeyError, ValueError) as error:
        raise StoreFault(f"{what}: the answer is none of S3's: {' '.join(str(error).split())[:200]}") from error


def _client_error(error: ClientError, what: object) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _ABSENT:
        return ObjectAbsent(str(what))
    if code in {"NoSuchUpload", "InvalidPart"}:
        return AssemblyGone(f"{what}: {code}")
    if code in {"PreconditionFailed", "412"} or status == 412:
        return ObjectExists(str(what))
    if code in _DENIED or status in {401, 403}:
        return StoreAccessDenied(
            f"{what}: {code}{': ' if message else ''}{message}; check the bucket's name, the "
            "credentials and their permission to list, read, write and delete"
        )
    kind: type[StoreUnavailable] = StoreUnavailable
    if status == 501 or code in _UNSUPPORTED:
        kind = RequestUnsupported
    elif status >= 500 or status in _PASSING_STATUSES or code in PASSING_CODES:
        kind = StoreFault
    return kind(f"{what}: {code or status} {message}".rstrip())


class ObjectRange(NamedTuple):
    data: bytes
    size: int
    """Bytes of the whole object."""
    etag: str


def read_object(location: S3Location, *, start: int = 0, length: int | None = None) -> ObjectRange:
    """Return `length` bytes of the object from `start`, or all from there; fewer where the object ends before.

    Raises ObjectAbsent where there is no such object. An answer that breaks off, or whose bytes are not those of the
    checksum beside them, is asked for again.
    """
    wanted = f"bytes={start}-" if length is None else f"bytes={start}-{start + length - 1}"
    doubted = b""

    def receive() -> ObjectRange:
        nonlocal doubted
        try:
            answer = s3_client().get_object(Bucket=location.bucket, Key=location.key, Range=wanted)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 416:
                raise
            # The object ends before the range begins; an empty one before any.
            head = s3_client().head_object(Bucket=location.bucket, Key=location.key)
            return ObjectRange(b"", head["ContentLength"], head["ETag"].strip('"'))
        data = answer["Body"].read()
        whole = answer.get("ContentRange", "").rpartition("/")[2]
        size = int(whole) if whole.isdigit() else len(data)
        if whole and len(data) != (size - start if length is None else min(length, size - start)):
            raise StoreFault(f"{location}: the store sent {len(data)} bytes for {wanted} of {size}")
        # What comes twice is what is there: on some stores an ETag of this form is no MD5.
        if len(data) == size and not _fits_etag(data, answer) and data != doubted:
            doubted = data
            raise StoreFault(f"{location}: the bytes received are not those of the ETag")
        return ObjectRange(data, size, answer["ETag"].strip('"'))

    return ask(location, receive)


def _fits_etag(data: bytes, answer: GetObjectOutputTypeDef) -> bool:
    """Return whether a whole object may be what its ETag says, which is the MD5 of most that were uploaded at once."""
    etag = answer["ETag"].strip('"')
    is_md5 = _MD5.fullmatch(etag) and answer.get("ServerSideEncryption", "AES256") == "AES256"
    return not is_md5 or hashlib.md5(data, usedforsecurity=False).hexdigest() == etag


class Presigner:
    """Signs GET URLs of objects, so that any HTTP client can fetch them with this process's credentials."""

    def __init__(self, *, expires_seconds: int = 3600) -> None:
        self._client = s3_client()
        session = boto3.DEFAULT_SESSION
        self._credentials = session.get_credentials() if session else None
        self._expires_seconds = expires_seconds
        self._bases: dict[str, str] = {}

    def sign(self, location: S3Location) -> str:
        """Return a URL that GETs the object. Without credentials it is unsigned, which public buckets allow."""
        url = self.base_url(location.bucket) + quote(location.key, safe="/~")
        if self._credentials is None:
            return url
        with s3_errors(location):
            frozen = self._credentials.get_frozen_credentials()
        key = sigv4.Key(frozen.access_key or "", frozen.secret_key or "", frozen.token)
        region = self._client.meta.region_name
        return sigv4.presigned_url(url, key, region=region, expires_seconds=self._expires_seconds, now=time.time())

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
