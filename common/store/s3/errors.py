"""The errors of the S3 SDK, and the error answers of stores, as this program's errors."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - the SDK's name
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MissingDependencyException,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from common.certificates import refusal
from common.errors import EmbedderError, SettingsError, StoreAccessDenied, StoreUnavailable
from common.process.resources import exhausted_beneath
from common.store.contract import AssemblyGone, ObjectAbsent, ObjectExists

if TYPE_CHECKING:
    from collections.abc import Iterator

ABSENT_CODES = {"404", "NoSuchKey", "NotFound"}

_KNOWN_OPERATIONS = {"CompleteMultipartUpload", "CreateMultipartUpload", "GetObject", "PutObject", "UploadPart"}
"""The operations that every store knows. A 404 to one of them without a code of S3 comes from another server, such as a
proxy before the store while it learns its routes."""

_NEVER_ABSENT = {"CreateMultipartUpload", "UploadPart"}
"""The operations that need no object."""

_LISTS = {"ListObjects", "ListObjectsV2"}
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

_PROTECTED = re.compile("immutable|retention|worm|legal.?hold|legal reasons|object ?lock|protected", re.IGNORECASE)
"""The words of stores that keep an object for a time and neither delete nor replace it."""

VIRTUAL_HOST_CODES = {"InvalidPathAccess", "PathStyleDomainForbidden", "SecondLevelDomainForbidden"}
"""The error codes of stores that take the bucket's name only in the host."""

_IDENTITY_OPERATIONS = {"AssumeRole", "AssumeRoleWithWebIdentity", "CreateToken", "GetRoleCredentials"}
"""The requests by which the SDK fetches credentials, while it sends a request to S3."""

_PASSING_IDENTITY_CODES = {"ExpiredTokenException", "IDPCommunicationError", "InvalidIdentityToken"}
"""The error codes of an identity service that may pass: a token that is about to be renewed, or a provider whose keys
cannot be fetched now, which is InvalidIdentityToken too."""

PASSING_STATUSES = {408, 409, 425, 429}
"""The HTTP statuses below 500 of faults that may have passed when the request is sent again."""

_PASSING_ERRORS = (
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)


_LOG_INS = (MissingDependencyException, SSOError, TokenRetrievalError)
"""What the SDK raises for a profile of a person who has not logged in, or whose session is over."""


class RequestRefused(StoreUnavailable):
    """The store does not accept the request as it is: it does not know it, or one of its headers, or its content.

    The request would be refused again; another request for the same end may be accepted.
    """


class VirtualHostWanted(StoreAccessDenied):
    """The store takes the bucket's name only in the host, and it was in the path."""


class ObjectProtected(StoreAccessDenied):
    """The bucket keeps the object for a time, so that it can be neither deleted nor replaced."""


class StoreFull(StoreUnavailable):
    """The store has no room for what is written: a disk is full, or a quota is used up."""


class RangeBeyondEnd(StoreUnavailable):
    """The object ends before the range that was asked for begins."""


class StoreFault(StoreUnavailable):
    """A fault that may have passed when the request is sent again."""


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
            f"no credentials for {what}: none are set, and no metadata service gives any (on EC2, pods reach it from a "
            "hop limit of 2 on); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or give the pod a workload identity"
        ) from error
    except (*_LOG_INS, EOFError) as error:
        why = "the profile asks for a code" if isinstance(error, EOFError) else " ".join(str(error).split())
        raise StoreAccessDenied(
            f"no credentials for {what}: {why}; nobody can log in here, so give keys or a role instead"
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

    Raises CertificateRefused when the server cannot be trusted, and ResourceExhausted when this machine cannot open a
    connection or a file.
    """
    try:
        yield
    except (HTTPError, OSError) as error:  # most errors of the SDK's connections are an OSError too
        if (refused := refusal(error, what)) is not None:
            raise refused from error
        if (exhausted := exhausted_beneath(error)) is not None:
            raise exhausted from error
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
        place=str(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("location", "")),
    )
    if answer.operation in _IDENTITY_OPERATIONS:
        return _identity_error(answer)
    if answer.says_absent:
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
    place: str = ""
    """Where a redirect leads to."""

    @property
    def is_of_another_server(self) -> bool:
        if self.operation in _NEVER_ABSENT and self.code in ABSENT_CODES:
            return True
        without_code = {""} if self.operation == "GetObject" else {"", "404"}
        return self.status == 404 and self.operation in _KNOWN_OPERATIONS and self.code in without_code

    @property
    def says_absent(self) -> bool:
        if self.operation in _LISTS:  # a store may have nothing to list
            return self.code == "NoSuchKey"
        return self.code in ABSENT_CODES and not self.is_of_another_server

    def __str__(self) -> str:
        who = "the identity service" if self.operation in _IDENTITY_OPERATIONS else "the store"
        return f"{who} answered {self.status} to {self.operation}: {f'{self.code} {self.message}'.strip()}"


_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_EXPIRED_ADVICE = (
    "the session token has expired; give new credentials, or better a role of the pod, whose tokens are renewed, or "
    "keys that do not expire"
)

_TOO_LARGE_ADVICE = (
    "raise the limit of the store or of a proxy before it (nginx: client_max_body_size), or raise EMBEDDER_CHUNK_COUNT "
    "for smaller chunk files"
)


def _kind_of(answer: _ErrorAnswer) -> tuple[type[EmbedderError], str]:
    """Return the error that an answer becomes, and what a person can do about it."""
    code, status = answer.code, answer.status
    is_denied = code in DENIED_CODES or status in {401, 403}
    is_passing = code in PASSING_CODES or status in PASSING_STATUSES or status >= 500
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
        (
            code in VIRTUAL_HOST_CODES,
            VirtualHostWanted,
            "set EMBEDDER_S3_ADDRESSING=virtual, and give the endpoint without the bucket",
        ),
        (300 <= status < 400 and bool(answer.place), StoreAccessDenied, _advice_on_redirect(answer.place)),
        (answer.is_of_another_server, StoreFault, ""),
        (
            400 <= status < 500 and bool(_PROTECTED.search(f"{code} {answer.message}")),
            ObjectProtected,
            "the bucket keeps its objects for a time, so they can be neither deleted nor replaced",
        ),
        (code in _EXPIRED_CODES, StoreAccessDenied, _EXPIRED_ADVICE),
        (code == "KMS.ThrottlingException", StoreFault, ""),
        (
            code.startswith("KMS."),
            StoreAccessDenied,
            "check EMBEDDER_S3_KMS_KEY_ID and the permission to use the key",
        ),
        (code in PASSING_CODES, StoreFault, ""),
        (is_denied, StoreAccessDenied, _advice_on_denial(answer.operation)),
        (status == 416 or code == "InvalidRange", RangeBeyondEnd, ""),
        (status == 501, RequestRefused, ""),
        (is_passing, StoreFault, ""),
        (400 <= status < 500, RequestRefused, ""),
        (True, StoreUnavailable, ""),
    ]
    return next((kind, advice) for holds, kind, advice in kinds if holds)


def _advice_on_redirect(place: str) -> str:
    server = "/".join(place.split("/")[:3]) if "://" in place else place
    return f"it redirects to {server}; give the store's own address (AWS_ENDPOINT_URL_S3, or s3.endpointUrl)"


def _advice_on_denial(operation: str) -> str:
    advice = "check the bucket's name, the region, the credentials and their permission to list, read, write and delete"
    if operation == "HeadObject":  # which has no body that could give a reason
        advice += (
            "; without the permission to list the bucket (s3:ListBucket), S3 answers 403 for an object that is absent"
        )
    return advice


def _identity_error(answer: _ErrorAnswer) -> EmbedderError:
    sentence = f"no credentials for S3: {answer}"
    is_passing = answer.code in _PASSING_IDENTITY_CODES | PASSING_CODES or answer.status in PASSING_STATUSES
    if is_passing or answer.status >= 500:
        return StoreFault(sentence)
    return StoreAccessDenied(f"{sentence}; check the role, its trust policy and the pod's ServiceAccount")
