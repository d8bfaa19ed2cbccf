"""The door to the S3 SDK: its clients, its credentials, and its errors as this program's errors.

Only this module imports boto3 and botocore. The SDK's own environment variables and files configure S3.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

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
from common.process.resources import exhausted_beneath
from common.store.contract import AssemblyGone, ObjectAbsent, ObjectExists
from common.store.s3.sigv4 import Key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

CONNECT_SECONDS = 10
"""The longest time in seconds to connect to the store."""

READ_SECONDS = 60
"""The longest time in seconds without a byte of an answer, before the request counts as failed."""

POOL_CONNECTIONS = 72
"""The number of connections that stay open for the next request: a merge makes 32 copies, 32 reads and 4 uploads at a
time."""

_LAST_MODIFIED = re.compile(rb"<LastModified>[^<]*</LastModified>")

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
"""The error codes of stores that do not support a request, or a condition of a request."""

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
"""The error codes of faults that may have passed when the request is sent again."""

_PASSING_STATUSES = {408, 429}
_PASSING_ERRORS = (
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)


class RequestUnsupported(StoreUnavailable):
    """The store does not support this request, or its condition."""


class RangeBeyondEnd(StoreUnavailable):
    """The object ends before the range that was asked for begins."""


class StoreFault(StoreUnavailable):
    """A fault that may have passed when the request is sent again."""


@cache
def s3_client() -> S3Client:
    """Return this process's client; boto3 clients may be shared between threads."""
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},  # `request.ask` repeats requests instead
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=POOL_CONNECTIONS,
        tcp_keepalive=True,
    )
    try:
        client = boto3.client("s3", config=config)
    except NoRegionError as error:
        raise StoreAccessDenied("S3 has no region; set AWS_REGION") from error
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"S3 cannot be set up: {error}") from error
    client.meta.events.register("before-parse.s3.ListObjectsV2", _without_times)
    return client


def _without_times(*, response_dict: dict[str, Any], **_: object) -> None:
    """Take the times out of a list of objects before the SDK parses it.

    Nothing uses them, and they are three quarters of the CPU of a list: 5 s for 100,000 chunks.
    """
    response_dict["body"] = _LAST_MODIFIED.sub(b"", response_dict["body"])


@cache
def unsigned_client() -> S3Client:
    """Return a client that makes URLs without a signature."""
    return boto3.client("s3", config=Config(signature_version=UNSIGNED))


class Credentials:
    """The credentials of this process as the SDK finds them. The SDK renews them when they are about to expire."""

    def __init__(self) -> None:
        s3_client()  # makes the SDK's default session
        session = boto3.DEFAULT_SESSION
        self._found: Any = session.get_credentials() if session else None
        self._refresh_needed: Callable[[], bool] | None = getattr(self._found, "refresh_needed", None)

    def key(self) -> Key | None:
        """Return the credentials as they are now, None when there are none. The call renews them when it must."""
        if self._found is None:
            return None
        frozen = self._found.get_frozen_credentials()
        return Key(frozen.access_key or "", frozen.secret_key or "", frozen.token)

    @property
    def must_be_renewed(self) -> bool:
        """Whether the next `key` waits for the network."""
        return self._refresh_needed is not None and bool(self._refresh_needed())


def clear_clients() -> None:
    """Forget the clients, so that the next call makes new ones from the environment at that time."""
    s3_client.cache_clear()
    unsigned_client.cache_clear()
    boto3.DEFAULT_SESSION = None


@contextmanager
def s3_errors(what: object) -> Iterator[None]:
    """Turn an error of the SDK about `what` into an error of this program.

    Raises ObjectAbsent, ObjectExists, AssemblyGone, SettingsError and StoreAccessDenied (78), StoreUnavailable (75),
    and ResourceExhausted (75) when this machine cannot open a connection.
    """
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
        raise SettingsError(f"{what} is not a valid S3 name: {' '.join(str(error).split())}") from error
    except _PASSING_ERRORS as error:
        # A repeated request would need the very files or memory that this machine lacks.
        raise exhausted_beneath(error) or StoreFault(f"{what}: {error}") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"{what}: {error}") from error


@contextmanager
def answer_errors(what: object) -> Iterator[None]:
    """Turn the errors that the SDK lets through into StoreFault: an answer broke off, or it is not an S3 response."""
    try:
        yield
    except (HTTPError, OSError) as error:
        raise StoreFault(f"{what}: the answer broke off: {error}") from error
    except (ResponseParserError, KeyError, ValueError) as error:
        raise StoreFault(f"{what}: not a valid S3 response: {' '.join(str(error).split())[:200]}") from error


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
    if status == 416:
        kind = RangeBeyondEnd
    elif status == 501 or code in _UNSUPPORTED:
        kind = RequestUnsupported
    elif status >= 500 or status in _PASSING_STATUSES or code in PASSING_CODES:
        kind = StoreFault
    return kind(f"{what}: {code or status} {message}".rstrip())
