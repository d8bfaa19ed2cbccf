"""A proxy before the S3 server that can do what servers and other pods do at the wrong moment."""

from __future__ import annotations

import http.client
import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from tests.s3_server import S3Server


class Request(NamedTuple):
    number: int
    """From 1."""
    method: str
    path: str
    """With the query."""
    headers: dict[str, str]

    @property
    def is_copy(self) -> bool:
        return "x-amz-copy-source" in self.headers


class Answer(NamedTuple):
    status: int
    body: bytes


NOT_IMPLEMENTED = Answer(501, b"<Error><Code>NotImplemented</Code><Message>no copies here</Message></Error>")


class S3Proxy(NamedTuple):
    environment: dict[str, str]
    requests: list[Request]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: S3Server, intervene: Callable[[Request], Answer | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.intervene = upstream, intervene
        self.requests: list[Request] = []
        self._lock = threading.Lock()

    def note(self, method: str, path: str, headers: dict[str, str]) -> Request:
        with self._lock:
            request = Request(len(self.requests) + 1, method, path, headers)
            self.requests.append(request)
            return request


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # Or else each answer waits 40 ms for the acknowledgement of its headers.
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # a client that was killed
            super().handle()

    def handle_expect_100(self) -> bool:
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.intervene(self.server.note(self.command, self.path, headers))
        if answer is None:
            self.pass_on(body)
            return
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - the names http.server looks for

    def pass_on(self, body: bytes) -> None:
        upstream = http.client.HTTPConnection(urlsplit(self.server.upstream.endpoint).netloc, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # the signature covers them, the host too
                if name.lower() != "expect":
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def s3_proxy(upstream: S3Server, intervene: Callable[[Request], Answer | None]) -> Iterator[S3Proxy]:
    """Run a proxy that asks `intervene` before it passes a request on; an answer is given in place of the server's."""
    server = _Server(upstream, intervene)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        yield S3Proxy(upstream.environment | {"AWS_ENDPOINT_URL": endpoint}, server.requests)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def has_condition(request: Request) -> bool:
    return bool({"if-match", "if-none-match"} & request.headers.keys())


def refuse_conditions(code: str) -> Callable[[Request], Answer | None]:
    """Return what makes a server refuse conditional writes with this error code, as those do that know none."""
    answer = Answer(501 if code == "NotImplemented" else 400, f"<Error><Code>{code}</Code></Error>".encode())
    return lambda request: answer if has_condition(request) else None


def wrong_copy(api: S3Client, *, ignoring_the_range: bool) -> Callable[[Request], Answer | None]:
    """Return what makes a server's copies wrong: the whole object each time, or zeros in place of its bytes."""

    def intervene(request: Request) -> Answer | None:
        if not request.is_copy:
            return None
        url = urlsplit(request.path)
        bucket, key = unquote(url.path).lstrip("/").split("/", 1)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        part: dict[str, Any] = {
            "Bucket": bucket,
            "Key": key,
            "UploadId": query["uploadId"],
            "PartNumber": int(query["partNumber"]),
        }
        if ignoring_the_range:
            source = unquote(request.headers["x-amz-copy-source"])
            etag = api.upload_part_copy(**part, CopySource=source)["CopyPartResult"]["ETag"]
        else:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["x-amz-copy-source-range"])
            assert found is not None
            etag = api.upload_part(**part, Body=bytes(int(found[2]) - int(found[1]) + 1))["ETag"]
        etag = etag.strip('"')
        return Answer(200, f"<CopyPartResult><ETag>&quot;{etag}&quot;</ETag></CopyPartResult>".encode())

    return intervene
