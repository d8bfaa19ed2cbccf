"""A proxy in front of the S3 server that plants the faults of servers, networks and other pods.

    with s3_proxy(s3, storm(seed=1, share=0.1, faults=[RESET, SLOW_DOWN, LOST])) as proxy:
        run_worker(..., **proxy.environment)

The proxy calls `intervene` with every request. It returns an Answer to send instead of the server's, a Fault, or None.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.serving import serving

if TYPE_CHECKING:
    import io
    import ssl
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

    from tests.s3_server import S3Server


class Request(NamedTuple):
    number: int
    """The request's number, from 1."""
    method: str
    path: str
    """The path with the query."""
    headers: dict[str, str]

    @property
    def is_copy(self) -> bool:
        return "x-amz-copy-source" in self.headers

    @property
    def operation(self) -> str:
        """The name of the request in the S3 API."""
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "uploads" in query:
            return "CreateMultipartUpload" if self.method == "POST" else "ListMultipartUploads"
        if "partNumber" in query:
            return "UploadPartCopy" if self.is_copy else "UploadPart"
        if "uploadId" in query:
            return "CompleteMultipartUpload" if self.method == "POST" else "AbortMultipartUpload"
        if "list-type" in query:
            return "ListObjectsV2"
        if "delete" in query:
            return "DeleteObjects"
        return {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}[self.method]


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})
    """The headers besides Content-Length."""


class Fault(NamedTuple):
    """What happens to a request, or to the server's answer to it."""

    late_seconds: float = 0
    """The delay in seconds before anything else happens."""
    is_passed_on: bool = True
    """Whether the request reaches the server."""
    ignored: frozenset[str] = frozenset()
    """The headers that the server does not get, as if it did not know them. The rest is signed again."""
    change: Callable[[Answer], Answer] | None = None
    """The change of the server's answer."""
    has_length: bool = True
    """Whether the answer has the header Content-Length. Only an answer without a body can do without it."""
    sent: float = 1
    """The share of the answer's body that is sent before the connection is reset. Below 0 no headers are sent."""


def _error(status: int, code: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>planted</Message></Error>".encode())


def _flip_a_bit(answer: Answer) -> Answer:
    middle = len(answer.body) // 2
    return answer._replace(body=answer.body[:middle] + bytes([answer.body[middle] ^ 4]) + answer.body[middle + 1 :])


def _with_another_etag(answer: Answer) -> Answer:
    headers = {name: _MD5.sub("0" * 32, value) if name == "ETag" else value for name, value in answer.headers.items()}
    if not answer.body.startswith(b"<"):
        return answer._replace(headers=headers)
    return answer._replace(headers=headers, body=_MD5.sub("0" * 32, answer.body.decode()).encode())


_MD5 = re.compile("[0-9a-f]{32}")

NOT_IMPLEMENTED = Answer(501, b"<Error><Code>NotImplemented</Code><Message>no copies here</Message></Error>")
INTERNAL_ERROR = _error(500, "InternalError")
SLOW_DOWN = _error(503, "SlowDown")
BAD_GATEWAY = Answer(502, b"<html><body><h1>502 Bad Gateway</h1>nothing but HTML<br></body></html>")
NOT_S3 = Answer(200, b"<html><body>Welcome to this network!<br></body></html>")
CONFLICT = _error(409, "ConditionalRequestConflict")
RESET = Fault(is_passed_on=False, sent=-1)
LOST = Fault(sent=-1)
"""The request takes effect, and its answer is lost."""
CUT_SHORT = Fault(sent=0.5)
FLIPPED = Fault(change=lambda answer: _flip_a_bit(answer) if answer.body else answer)
WRONG_ETAG = Fault(change=_with_another_etag)


def late(seconds: float) -> Fault:
    """Return the fault of a late answer."""
    return Fault(late_seconds=seconds)


def stall(seconds: float) -> Fault:
    """Return the fault of a request that gets no answer, and whose connection is reset after `seconds`."""
    return RESET._replace(late_seconds=seconds)


Reaction = Answer | Fault | None
Intervention = Callable[[Request], Reaction]


class S3Proxy(NamedTuple):
    environment: dict[str, str]
    requests: list[Request]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: S3Server, intervene: Intervention, *, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._tls = tls
        self.upstream, self.intervene = upstream, intervene
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def note(self, method: str, path: str, headers: dict[str, str]) -> Request:
        with self._lock:
            request = Request(len(self.requests) + 1, method, path, headers)
            self.requests.append(request)
            return request

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class has it
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        # OSError: a client that does not trust the certificate.
        with suppress(OSError), self._tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as the base class has it
        self.close_request(request)  # a shutdown before it would close the connection in order, without a reset


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # With Nagle's algorithm each answer waits 40 ms for the acknowledgement of its headers.
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # a client that was killed
            super().handle()

    def finish(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            super().finish()

    def handle_expect_100(self) -> bool:
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

    def handle_any(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = joined_chunks(self.rfile)
            del self.headers["Transfer-Encoding"]  # which no signature covers
            self.headers["Content-Length"] = str(len(body))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reaction = self.server.intervene(self.server.note(self.command, self.path, headers))
        if isinstance(reaction, Answer):
            self.answer(reaction, length=len(reaction.body))
            return
        fault = reaction or Fault()
        self.server.closing.wait(fault.late_seconds)
        if not fault.is_passed_on:
            self.reset()
            return
        answer, length = self.ask_upstream(body, ignored=fault.ignored & headers.keys())
        if fault.change:
            answer = fault.change(answer)
            length = length if self.command == "HEAD" else len(answer.body)
        if fault.sent >= 0:
            sent = int(fault.sent * len(answer.body))
            self.answer(answer, length=length if fault.has_length else None, sent=sent)
        if fault.sent < 1:
            self.reset()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - the names that http.server calls

    def ask_upstream(self, body: bytes, *, ignored: Set[str] = frozenset()) -> tuple[Answer, int]:
        """Return the server's answer and its Content-Length, which for HEAD is not the length of the body."""
        sent = [(name, value) for name, value in self.headers.items() if name.lower() not in {"expect", *ignored}]
        if ignored:
            sent = self.sign(sent, body)
        upstream = http.client.HTTPConnection(urlsplit(self.server.upstream.endpoint).netloc, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent:  # the signature covers them, Host included
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        headers = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}
        }
        length = int(answer.getheader("Content-Length") or 0) if self.command == "HEAD" else len(content)
        return Answer(answer.status, content, headers), length

    def sign(self, headers: list[tuple[str, str]], body: bytes) -> list[tuple[str, str]]:
        from botocore.auth import S3SigV4Auth  # noqa: PLC0415 - the tests on a GPU have no SDK
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415
        from botocore.credentials import ReadOnlyCredentials  # noqa: PLC0415

        upstream = self.server.upstream
        url = f"http://{self.headers['Host']}{self.path}"
        request = AWSRequest(method=self.command, url=url, headers=dict(headers), data=body)
        credentials = ReadOnlyCredentials(upstream.access_key, upstream.secret_key, None)
        S3SigV4Auth(credentials, "s3", upstream.environment["AWS_REGION"]).add_auth(request)
        return [(str(name), str(value)) for name, value in request.headers.items()]

    def answer(self, answer: Answer, *, length: int | None, sent: int | None = None) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:sent])
        self.wfile.flush()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def joined_chunks(stream: io.BufferedIOBase) -> bytes:
    """Return the content of a stream of chunks, each behind its length, and read it up to its last line."""
    content = b""
    while length := int(stream.readline().partition(b";")[0], 16):
        content += stream.read(length)
        stream.readline()
    while stream.readline().strip():  # the trailers
        pass
    return content


@contextmanager
def s3_proxy(upstream: S3Server, intervene: Intervention, *, tls: ssl.SSLContext | None = None) -> Iterator[S3Proxy]:
    """Run a proxy that calls `intervene` before it passes a request on. With `tls` it is asked over https."""
    server = _Server(upstream, intervene, tls=tls)
    with serving(server, before_end=server.closing.set):
        host = "https://localhost" if tls else "http://127.0.0.1"
        endpoint = f"{host}:{server.server_address[1]}"
        yield S3Proxy(upstream.environment | {"AWS_ENDPOINT_URL": endpoint}, server.requests)


def storm(*, seed: int, share: float, faults: Sequence[Answer | Fault]) -> Intervention:
    """Return what gives one of the faults to this share of all requests."""

    def intervene(request: Request) -> Reaction:
        drawn = random.Random(f"{seed} {request.number}")
        return drawn.choice(faults) if drawn.random() < share else None

    return intervene


class Outage:
    """A fault of all requests for `seconds`, from the first request for which `begins` returns true."""

    def __init__(self, fault: Answer | Fault, *, seconds: float, begins: Callable[[Request], bool]) -> None:
        self._fault, self._seconds, self._begins = fault, seconds, begins
        self._lock = threading.Lock()
        self._until = 0.0
        self.struck: list[Request] = []
        """The requests that got the fault."""

    def __call__(self, request: Request) -> Reaction:
        with self._lock:
            if not self._until and self._begins(request):
                self._until = time.monotonic() + self._seconds
            if time.monotonic() >= self._until:
                return None
            self.struck.append(request)
            return self._fault


class Once:
    """A fault of the first request of each operation, or of each of the named operations."""

    def __init__(self, fault: Answer | Fault, *operations: str) -> None:
        self._fault, self._operations = fault, operations
        self._lock = threading.Lock()
        self.struck: set[str] = set()
        """The operations that got the fault."""

    def __call__(self, request: Request) -> Reaction:
        with self._lock:
            if request.operation in self.struck or (self._operations and request.operation not in self._operations):
                return None
            self.struck.add(request.operation)
            return self._fault


def has_condition(request: Request) -> bool:
    return bool({"if-match", "if-none-match"} & request.headers.keys())


def refuse_conditions(code: str) -> Intervention:
    """Return what makes a server refuse conditional writes with this error code, as stores without them do."""
    answer = Answer(501 if code == "NotImplemented" else 400, f"<Error><Code>{code}</Code></Error>".encode())
    return lambda request: answer if has_condition(request) else None


class CopiedRange(NamedTuple):
    """The range that a server is asked to copy."""

    bucket: str
    key: str
    start: int
    length: int

    def read(self, api: S3Client, *, key: str = "", shift: int = 0) -> bytes:
        """Return the bytes of the range, or as many bytes of another object or from another place."""
        first = self.start + shift
        wanted = f"bytes={first}-{first + self.length - 1}"
        return api.get_object(Bucket=self.bucket, Key=key or self.key, Range=wanted)["Body"].read()


def wrong_copy(api: S3Client, content: Callable[[CopiedRange], bytes]) -> Intervention:
    """Return what makes a server store `content` instead of a copy, and answer with success."""

    def intervene(request: Request) -> Answer | None:
        if not request.is_copy:
            return None
        url = urlsplit(request.path)
        bucket, key = unquote(url.path).lstrip("/").split("/", 1)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        source, chunk = unquote(request.headers["x-amz-copy-source"]).lstrip("/").split("/", 1)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["x-amz-copy-source-range"])
        assert found is not None
        start, end = map(int, found.groups())
        etag = api.upload_part(
            Bucket=bucket,
            Key=key,
            UploadId=query["uploadId"],
            PartNumber=int(query["partNumber"]),
            Body=content(CopiedRange(source, chunk, start, end - start + 1)),
        )["ETag"].strip('"')
        return Answer(200, f"<CopyPartResult><ETag>&quot;{etag}&quot;</ETag></CopyPartResult>".encode())

    return intervene
