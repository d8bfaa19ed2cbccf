"""The door to the S3 SDK: its clients, its credentials, and its errors as this program's errors.

Only this module and `session` import boto3 and botocore. The SDK's own environment variables and files configure S3.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

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
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from common.certificates import refusal
from common.errors import EmbedderError, SettingsError, StoreAccessDenied, StoreUnavailable
from common.process.resources import exhausted_beneath
from common.settings import S3Settings, read_settings
from common.store.contract import AssemblyGone, ObjectAbsent, ObjectExists
from common.store.s3 import headers
from common.store.s3.session import sdk
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

_ABSENT = {"404", "NoSuchKey", "NotFound"}
DENIED_CODES = {
    "401",
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidBucketName",
    "InvalidToken",
    "NoSuchBucket",
    "PermanentRedirect",
    "SignatureDoesNotMatch",
    "Unauthorized",
}
"""The error codes of requests that every program with these credentials would be refused."""

_FULL_CODES = {"QuotaExceeded", "StorageFull", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"}
_SKEWED_CODES = {"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"}

PASSING_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "Conflict",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
"""The error codes of faults that may have passed when the request is sent again."""

_IDENTITY_OPERATIONS = {"AssumeRole", "AssumeRoleWithWebIdentity"}
"""The requests by which the SDK fetches credentials, while it sends a request to S3."""

_PASSING_IDENTITY_CODES = {"ExpiredTokenException", "IDPCommunicationError", "InvalidIdentityToken"}
"""The error codes of an identity service that may pass: a token that is about to be renewed, or a provider whose keys
cannot be fetched now, which is InvalidIdentityToken too."""

_PASSING_STATUSES = {408, 409, 425, 429}
_PASSING_ERRORS = (
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)


class RequestRefused(StoreUnavailable):
    """The store does not accept the request as it is: it does not know it, or one of its headers, or its content.

    The request would be refused again; another request for the same end may be accepted.
    """


class StoreFull(StoreUnavailable):
    """The store has no room for what is written: a disk is full, or a quota is used up."""


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
        # The SDK would add CRCs as trailers of the content. Google, Cloudflare R2, Backblaze B2 and older versions of
        # Ceph and MinIO refuse them, or store them as content. Each upload has an MD5 instead.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    settings = read_settings(S3Settings)
    try:
        client = sdk().client(config)
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"S3 cannot be set up: {error}") from error
    headers.register(client, settings)
    return client


@cache
def unsigned_client(*, region: str = "", addressing: str = "") -> S3Client:
    """Return a client that sends requests and makes URLs without a signature.

    Region and addressing style are the session's by default.
    """
    config = Config(
        signature_version=UNSIGNED,
        retries={"mode": "standard", "total_max_attempts": 1},  # as above
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
    )
    return sdk().client(config, region=region, addressing=addressing)


def region_of_bucket(bucket: str) -> str:
    """Return the region in which the bucket is, the session's region if S3 does not say another one.

    A list may name buckets of any region. S3 tells the region of a bucket to whoever asks, without any permission. An
    endpoint of one's own has one region. The bucket is in the request's path, so that no name in a list becomes a part
    of a host that cannot be resolved.
    """
    if sdk().endpoint:
        return sdk().region
    try:
        answer: Any = unsigned_client(addressing="path").head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        if status >= 500 or status in _PASSING_STATUSES:
            raise
    return str(answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region") or sdk().region)


class Credentials:
    """The credentials of this process as the SDK finds them. The SDK renews them when they are about to expire."""

    def __init__(self) -> None:
        self._found: Any = sdk().credentials
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
    sdk.cache_clear()


@contextmanager
def s3_errors(what: object) -> Iterator[None]:
    """Turn an error of the SDK about `what` into an error of this program.

    Raises ObjectAbsent, ObjectExists, AssemblyGone, SettingsError, StoreAccessDenied and CertificateRefused (78),
    StoreUnavailable (75), and ResourceExhausted (75) when this machine cannot open a connection.
    """
    try:
        yield
    except ClientError as error:
        raise _client_error(error, what) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreAccessDenied(
            f"no credentials for {what}: none are set, and no metadata service gives any; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or give the pod a workload identity"
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
    """Turn the errors that the SDK lets through into StoreFault: an answer broke off, or it is not an S3 response.

    Raises CertificateRefused when the server cannot be trusted.
    """
    try:
        yield
    except (HTTPError, OSError) as error:  # most errors of the SDK's connections are an OSError too
        if (refused := refusal(error, what)) is not None:
            raise refused from error
        if isinstance(error, OSError) and error.filename:  # the token of an identity
            raise StoreFault(f"{what}: {error.filename} cannot be read: {error.strerror}") from error
        raise StoreFault(f"{what}: the answer broke off: {error}") from error
    except (ResponseParserError, KeyError, ValueError) as error:
        raise StoreFault(f"{what}: not a valid S3 response: {' '.join(str(error).split())[:200]}") from error


def _client_error(error: ClientError, what: object) -> Exception:
    answer = _ErrorAnswer(
        code=str(error.response.get("Error", {}).get("Code", "")),
        status=int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
        message=" ".join(str(error.response.get("Error", {}).get("Message", "")).split()),
        operation=error.operation_name,
    )
    if answer.operation in _IDENTITY_OPERATIONS:
        return _identity_error(answer)
    if answer.code in _ABSENT:
        return ObjectAbsent(str(what))
    is_conflict = answer.code == "ConditionalRequestConflict" and answer.operation == "CompleteMultipartUpload"
    if answer.code == "NoSuchUpload" or is_conflict:  # after such a conflict, S3 expects a new upload
        return AssemblyGone(f"{what}: {answer.code}")
    if answer.status == 412 or answer.code == "PreconditionFailed":
        return ObjectExists(str(what))
    kind, advice = _kind_of(answer)
    return kind(f"{what}: {answer}{'; ' if advice else ''}{advice}")


class _ErrorAnswer(NamedTuple):
    """An answer of the store that is an error."""

    code: str
    status: int
    message: str
    operation: str

    def __str__(self) -> str:
        who = "the identity service" if self.operation in _IDENTITY_OPERATIONS else "the store"
        return f"{who} answered {self.status} to {self.operation}: {f'{self.code} {self.message}'.strip()}"


_TOO_LARGE_ADVICE = (
    "raise the limit of the store or of a proxy before it (nginx: client_max_body_size), or raise EMBEDDER_CHUNK_COUNT "
    "for smaller chunk files"
)


def _kind_of(answer: _ErrorAnswer) -> tuple[type[EmbedderError], str]:
    """Return the error that an answer becomes, and what a person can do about it."""
    code, status = answer.code, answer.status
    is_denied = code in DENIED_CODES or status in {401, 403}
    is_passing = code in PASSING_CODES or status in _PASSING_STATUSES or status >= 500
    kinds: list[tuple[bool, type[EmbedderError], str]] = [
        (
            code in _SKEWED_CODES,
            StoreUnavailable,
            "the clock of this machine or that of the store is wrong; check the time on the node",
        ),
        (code in _FULL_CODES or status == 507, StoreFull, "free space in the store, or raise the quota"),
        (
            code == "EntityTooLarge" or status == 413,
            SettingsError,
            _TOO_LARGE_ADVICE,
        ),
        (code == "KMS.ThrottlingException", StoreFault, ""),
        (
            code.startswith("KMS."),
            StoreAccessDenied,
            "check EMBEDDER_S3_KMS_KEY_ID and the permission to use the key",
        ),
        (code in PASSING_CODES, StoreFault, ""),
        (is_denied, StoreAccessDenied, _advice_on_denial(answer.operation)),
        (status == 416, RangeBeyondEnd, ""),
        (status == 501, RequestRefused, ""),
        (is_passing, StoreFault, ""),
        (400 <= status < 500, RequestRefused, ""),
        (True, StoreUnavailable, ""),
    ]
    return next((kind, advice) for holds, kind, advice in kinds if holds)


def _advice_on_denial(operation: str) -> str:
    advice = "check the bucket's name, the region, the credentials and their permission to list, read, write and delete"
    if operation == "HeadObject":  # which has no body that could give a reason
        advice += (
            "; without the permission to list the bucket (s3:ListBucket), S3 answers 403 for an object that is absent"
        )
    return advice


def _identity_error(answer: _ErrorAnswer) -> EmbedderError:
    sentence = f"no credentials for S3: {answer}"
    is_passing = answer.code in _PASSING_IDENTITY_CODES | PASSING_CODES or answer.status in _PASSING_STATUSES
    if is_passing or answer.status >= 500:
        return StoreFault(sentence)
    return StoreAccessDenied(f"{sentence}; check the role, its trust policy and the pod's ServiceAccount")
