"""Doubles of stores that speak S3 with an accent: a proxy before a real S3 server refuses or ignores what they do.

What a store refuses, and with which words, is taken from its documentation and from reports of its users. No double is
the store itself. The server behind the proxies is SeaweedFS, which is also tested without a proxy.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from tests.s3_proxy import Answer, Fault, Reaction, Request, has_condition

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20

IGNORED = "ignored"
"""What a store does with headers that it does not know: it acts as if they were not there."""


def error(status: int, code: str, message: str = "") -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, f"<?xml version='1.0' encoding='UTF-8'?>{body}".encode(), {"Content-Type": "application/xml"})


SLOW_DOWN = error(429, "SlowDown", "Please reduce your request rate.")


Refusal = Answer | str | None
"""An answer that is an error, IGNORED, or None where the store does what is asked."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a store does otherwise than Amazon S3."""

    name: str
    checksums: Refusal = None
    """The answer to CRCs and to content with a trailer."""
    put_conditions: Refusal = None
    """The answer to a PutObject with If-Match or If-None-Match."""
    completion_conditions: Refusal = None
    """The answer to a CompleteMultipartUpload with If-Match or If-None-Match."""
    copies: Refusal = None
    """The answer to UploadPartCopy."""
    copy_conditions: Refusal = None
    """The answer to UploadPartCopy with a condition on its source."""
    copy_etags: bool = True
    """Whether the answer to UploadPartCopy has an ETag."""
    batch_deletion: Refusal = None
    """The answer to DeleteObjects."""
    batch_deletion_without_md5: Refusal = None
    """The answer to DeleteObjects without Content-MD5."""
    list_uploads: Refusal = None
    """The answer to ListMultipartUploads."""
    second_list: Refusal = None
    """The answer to ListObjectsV2; IGNORED makes it an answer to ListObjects."""
    page_size: int | None = None
    """The number of keys in a page of a list."""
    equal_parts: Answer | None = None
    """The answer to the end of an upload whose parts, the last one apart, have different sizes."""
    smallest_part: int = 5 * MIB
    """The smallest part in bytes, the last one apart."""
    smallest_source: int = 0
    """The size in bytes of the smallest object that a range can be copied from."""
    seconds_between_writes: float = 0
    """The time in seconds after a write of a key in which another write of it is refused."""
    too_many_writes: Answer = SLOW_DOWN
    opaque_etags: bool = False
    """Whether the ETags of objects are no MD5."""
    no_etags: bool = False
    """Whether objects have no ETags."""
    kept_back: frozenset[str] = frozenset()
    """The headers that the store acts on and that the server behind the double does not know."""
    head_lengths: bool = True
    """Whether the answer to HeadObject says the size of the object."""
    every_request: Callable[[Request], Answer | None] = field(default=lambda _: None)
    """The answer to requests that lack what the bucket demands."""
    every_answer: Callable[[Request, Answer], Answer] = field(default=lambda _, answer: answer)
    """What becomes of the server's answers."""


class Double:
    """A store that speaks a dialect, for `s3_proxy`."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._lock = threading.Lock()
        self._parts: dict[str, dict[int, int]] = defaultdict(dict)
        self._written: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self.refused: Counter[str] = Counter()
        """How often each peculiarity of the dialect was met."""

    def __call__(self, request: Request) -> Reaction:
        with self._lock:
            return self._react(request)

    def _react(self, request: Request) -> Reaction:
        dialect = self._dialect
        if (answer := dialect.every_request(request)) is not None:
            return self._met("demand", answer)
        ignored = set(dialect.kept_back)
        for kind, refusal, headers in self._peculiarities(request):
            if refusal is None:
                continue
            self.refused[kind] += 1
            if isinstance(refusal, Answer):
                return refusal
            ignored |= headers
        if (answer := self._part(request) or self._completion(request) or self._rate(request)) is not None:
            return answer
        return Fault(
            ignored=frozenset(ignored),
            change=lambda answer: self._change(request, answer),
            has_length=dialect.head_lengths or request.operation != "HeadObject",
        )

    def _met(self, kind: str, answer: Answer) -> Answer:
        self.refused[kind] += 1
        return answer

    def _peculiarities(self, request: Request) -> list[tuple[str, Refusal, set[str]]]:
        """Return the peculiarities that this request meets, with the headers that would be ignored."""
        dialect, operation = self._dialect, request.operation
        conditions = {"if-match", "if-none-match"}
        sums = {name for name in request.headers if name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum"))}
        is_write = has_condition(request)
        of_source = {name for name in request.headers if name.startswith("x-amz-copy-source-if-")}
        met = [
            ("checksums", dialect.checksums, sums, bool(sums or "x-amz-trailer" in request.headers)),
            ("put conditions", dialect.put_conditions, conditions, is_write and operation == "PutObject"),
            (
                "completion conditions",
                dialect.completion_conditions,
                conditions,
                is_write and operation == "CompleteMultipartUpload",
            ),
            ("copies", dialect.copies, set(), operation == "UploadPartCopy"),
            ("copy conditions", dialect.copy_conditions, of_source, bool(of_source)),
            ("batch deletion", dialect.batch_deletion, set(), operation == "DeleteObjects"),
            (
                "batch deletion without MD5",
                dialect.batch_deletion_without_md5,
                set(),
                operation == "DeleteObjects" and "content-md5" not in request.headers,
            ),
            ("list of uploads", dialect.list_uploads, set(), operation == "ListMultipartUploads"),
            (
                "second list",
                dialect.second_list if isinstance(dialect.second_list, Answer) else None,
                set(),
                operation == "ListObjectsV2",
            ),
        ]
        return [(kind, refusal, headers) for kind, refusal, headers, is_met in met if is_met]

    def _part(self, request: Request) -> Answer | None:
        if request.operation not in {"UploadPart", "UploadPartCopy"}:
            return None
        query = parse_qs(urlsplit(request.path).query)
        size = int(request.headers.get("content-length", 0))
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("x-amz-copy-source-range", "")):
            size = int(found[2]) - int(found[1]) + 1
            source = unquote(request.headers["x-amz-copy-source"]).lstrip("/")
            if self._sizes.get(source, self._dialect.smallest_source) < self._dialect.smallest_source:
                return error(
                    400,
                    "InvalidRequest",
                    "The specified copy source is not supported as a byte-range copy source",
                )
        self._parts[query["uploadId"][0]][int(query["partNumber"][0])] = size
        return None

    def _completion(self, request: Request) -> Answer | None:
        if request.operation != "CompleteMultipartUpload":
            return None
        sizes = self._parts[parse_qs(urlsplit(request.path).query)["uploadId"][0]]
        *body, last = (sizes[number] for number in sorted(sizes))
        if any(size < self._dialect.smallest_part for size in body):
            return self._met(
                "small part",
                error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size"),
            )
        if self._dialect.equal_parts and (len(set(body)) > 1 or (body and last > body[0])):
            return self._met("unequal parts", self._dialect.equal_parts)
        return None

    def _rate(self, request: Request) -> Answer | None:
        if request.operation not in {"PutObject", "CompleteMultipartUpload"}:
            return None
        key, now = unquote(urlsplit(request.path).path), time.monotonic()
        if now - self._written.get(key, -1e9) < self._dialect.seconds_between_writes:
            return self._met("rate", self._dialect.too_many_writes)
        self._written[key] = now
        self._sizes[key.lstrip("/")] = int(request.headers.get("content-length", 0))
        return None

    def _change(self, request: Request, answer: Answer) -> Answer:
        dialect = self._dialect
        if request.is_copy and not dialect.copy_etags:
            self.refused["copy without ETag"] += 1
            answer = answer._replace(body=re.sub(rb"<ETag>.*?</ETag>", b"", answer.body))
        if request.operation == "ListObjectsV2" and dialect.second_list == IGNORED and answer.status == 200:
            self.refused["second list"] += 1
            answer = answer._replace(body=_as_first_version(answer.body))
        of_objects = {"GetObject", "HeadObject", "ListObjectsV2", "ListObjects"}
        if dialect.no_etags and request.operation in of_objects:
            headers = {name: value for name, value in answer.headers.items() if name.lower() != "etag"}
            answer = answer._replace(headers=headers, body=re.sub(rb"<ETag>[^<]*</ETag>", b"", answer.body))
        if dialect.opaque_etags and request.operation in of_objects:
            answer = _with_opaque_etags(answer)
        return dialect.every_answer(request, answer)


def _as_first_version(body: bytes) -> bytes:
    for name in (b"KeyCount", b"NextContinuationToken", b"ContinuationToken", b"StartAfter"):
        body = re.sub(rb"<%s>.*?</%s>|<%s/>|<%s></%s>" % ((name,) * 5), b"", body)
    return body


def _with_opaque_etags(answer: Answer) -> Answer:
    headers = {
        name: re.sub(r"[0-9a-f]{32}", lambda found: f"0x8D{found[0][::-1].upper()}", value)
        if name.lower() == "etag"
        else value
        for name, value in answer.headers.items()
    }
    body = re.sub(
        rb"(<ETag>(?:&#34;|&quot;|\")?)([0-9a-f]{32})",
        lambda found: found[1] + b"0x8D" + found[2][::-1].upper(),
        answer.body,
    )
    return answer._replace(headers=headers, body=body if answer.body.startswith(b"<") else answer.body)


def _b2(header: str) -> Answer:
    return error(400, "InvalidArgument", f"Unsupported header '{header}' received for this API call.")


GOOGLE_NOT_IMPLEMENTED = error(
    400, "NotImplemented", "A header or query you provided requested a function that is not implemented."
)
MISSING_MD5 = error(400, "MissingContentMD5", "Missing required header for this request: Content-Md5.")
WRONG_SHA256 = error(
    400,
    "XAmzContentSHA256Mismatch",
    "The provided 'x-amz-content-sha256' header does not match what was computed.",
)

AWS = Dialect(
    name="aws",
    smallest_source=5 * MIB,
    batch_deletion_without_md5=error(
        400, "InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
    ),
)
GOOGLE = Dialect(
    name="google",
    checksums=error(403, "SignatureDoesNotMatch", "Access denied."),
    put_conditions=IGNORED,
    completion_conditions=GOOGLE_NOT_IMPLEMENTED,
    copies=GOOGLE_NOT_IMPLEMENTED,
    batch_deletion=GOOGLE_NOT_IMPLEMENTED,
    seconds_between_writes=1,
    too_many_writes=error(
        429, "SlowDown", "The object exceeded the rate limit for object mutation operations (create, update, delete)."
    ),
)
R2 = Dialect(
    name="r2",
    checksums=error(501, "NotImplemented", "STREAMING-UNSIGNED-PAYLOAD-TRAILER not implemented"),
    copy_conditions=error(501, "NotImplemented", "Header 'x-amz-copy-source-if-match' not implemented"),
    equal_parts=error(400, "InvalidPart", "All non-trailing parts must have the same length."),
    seconds_between_writes=1,
    too_many_writes=error(429, "TooManyRequests", "Reduce your concurrent request rate for the same object."),
)
MINIO = Dialect(name="minio", batch_deletion_without_md5=MISSING_MD5)
OLD_MINIO = Dialect(
    name="old minio",
    checksums=WRONG_SHA256,
    put_conditions=IGNORED,
    completion_conditions=IGNORED,
    batch_deletion_without_md5=MISSING_MD5,
)
CEPH = Dialect(
    name="ceph",
    checksums=WRONG_SHA256,
    completion_conditions=IGNORED,
    batch_deletion_without_md5=error(400, "InvalidRequest", "Missing required header for this request: Content-MD5"),
)
OLD_CEPH = Dialect(
    name="old ceph",
    checksums=WRONG_SHA256,
    put_conditions=IGNORED,
    completion_conditions=IGNORED,
    copies=error(501, "NotImplemented"),
    batch_deletion_without_md5=error(400, "InvalidRequest"),
    second_list=IGNORED,
)
B2 = Dialect(
    name="b2",
    checksums=_b2("x-amz-sdk-checksum-algorithm"),
    put_conditions=_b2("if-none-match"),
    completion_conditions=_b2("if-none-match"),
    copy_conditions=_b2("x-amz-copy-source-if-match"),
)
SEAWEEDFS = Dialect(name="seaweedfs", smallest_part=0)
OLD_SEAWEEDFS = Dialect(
    name="old seaweedfs",
    smallest_part=0,
    put_conditions=IGNORED,
    completion_conditions=IGNORED,
    copy_conditions=IGNORED,
    opaque_etags=True,
)
GARAGE = Dialect(
    name="garage",
    smallest_part=0,
    checksums=error(400, "InvalidRequest", "Bad request: invalid content sha256 hash"),
    put_conditions=IGNORED,
    completion_conditions=IGNORED,
)
LEAST = Dialect(
    name="least",
    checksums=error(400, "InvalidArgument"),
    put_conditions=error(400, "InvalidRequest", "unknown header"),
    completion_conditions=error(405, "MethodNotAllowed"),
    copies=error(405, "MethodNotAllowed"),
    batch_deletion=error(405, "MethodNotAllowed"),
    list_uploads=error(501, "NotImplemented"),
    second_list=error(400, "InvalidArgument", "unknown parameter list-type"),
    equal_parts=error(400, "InvalidRequest", "parts differ in size"),
    opaque_etags=True,
)
"""A store that can do the least of all, in every point."""
WITHOUT_COPY_ETAGS = Dialect(name="without copy etags", copy_etags=False)
WITHOUT_ETAGS = Dialect(
    name="without etags", no_etags=True, put_conditions=IGNORED, completion_conditions=IGNORED, copy_conditions=IGNORED
)

DIALECTS = [
    AWS,
    GOOGLE,
    R2,
    MINIO,
    OLD_MINIO,
    CEPH,
    OLD_CEPH,
    B2,
    SEAWEEDFS,
    OLD_SEAWEEDFS,
    GARAGE,
    LEAST,
    WITHOUT_COPY_ETAGS,
    WITHOUT_ETAGS,
]

DENIED = error(403, "AccessDenied", "User: arn:aws:iam::1:role/r is not authorized: explicit deny in a bucket policy")
KEY_ID = "arn:aws:kms:eu-central-1:1:key/abc"


def unencrypted(request: Request) -> Answer | None:
    """Refuse what a bucket policy refuses that denies uploads without the right encryption."""
    is_write = request.operation in {"PutObject", "CreateMultipartUpload"}
    sent = (
        request.headers.get("x-amz-server-side-encryption"),
        request.headers.get("x-amz-server-side-encryption-aws-kms-key-id"),
    )
    return DENIED if is_write and sent != ("aws:kms", KEY_ID) else None


def unpaid(request: Request) -> Answer | None:
    """Refuse what a bucket refuses whose requesters pay."""
    query = parse_qs(urlsplit(request.path).query)
    says_so = request.headers.get("x-amz-request-payer") or query.get("x-amz-request-payer", [""])[0]
    return None if says_so == "requester" else error(403, "AccessDenied", "Access Denied")


ENCRYPTED = Dialect(
    name="encrypted",
    kept_back=frozenset({"x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"}),
    every_request=unencrypted,
    opaque_etags=True,
    copy_conditions=IGNORED,
    put_conditions=IGNORED,
    completion_conditions=IGNORED,
)
PAID = Dialect(name="paid", every_request=unpaid)

ENCRYPTION = {"EMBEDDER_S3_ENCRYPTION": "aws:kms", "EMBEDDER_S3_KMS_KEY_ID": KEY_ID}
PAYING = {"EMBEDDER_S3_REQUESTER_PAYS": "true"}
