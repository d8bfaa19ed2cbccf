"""AWS's S3 as it is seen from inside a network: a proxy that makes tunnels to it, and hosts for each region behind TLS.

    with aws_double(certificates, {"paris-photos": "eu-west-3"}) as aws:
        aws.put("paris-photos", "a.jpg", b"...")
        program(**aws.environment)
        aws.requests

Buckets have a region. Only its host serves them, in virtual-hosted and in path style, and only for signatures of that
region. Other hosts answer 301 with the header x-amz-bucket-region, or 400 where AWS does. The host of all regions knows
only the buckets of us-east-1.
"""

from __future__ import annotations

import hashlib
import io
import re
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.connect_proxy import connect_proxy
from tests.s3_proxy import joined_chunks
from tests.serving import serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from tests.certificates import Certificates

_HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3(?:\.dualstack)?(?:\.(?P<region>[a-z]{2}-[a-z]+-\d))?\.amazonaws\.com")
_SCOPE = re.compile(r"/\d{8}/([a-z0-9-]+)/s3/aws4_request")


class AwsRequest(NamedTuple):
    method: str
    host: str
    path: str
    signed_for: str
    """The region of the signature, an empty text if there is none."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, buckets: Mapping[str, str], tls: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tls = tls
        self.buckets = buckets
        self.objects: dict[tuple[str, str], bytes] = {}
        self.requests: list[AwsRequest] = []

    def finish_request(self, request: object, client_address: object) -> None:
        # OSError: a client that does not trust the certificate.
        with suppress(OSError), self.tls.wrap_socket(request, server_side=True) as secured:  # type: ignore[arg-type]
            super().finish_request(secured, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.body()
        url = urlsplit(self.path)
        host = self.headers["Host"].removesuffix(":443")
        query = parse_qs(url.query)
        said = (query.get("X-Amz-Credential") or [self.headers.get("Authorization", "")])[0]
        scope = _SCOPE.search(said)
        request = AwsRequest(self.command, host, self.path, scope[1] if scope else "")
        self.server.requests.append(request)
        asked = _HOST.fullmatch(host)
        if asked is None:
            self.answer(404, b"<Error><Code>NotAws</Code></Error>")
            return
        first, _, rest = unquote(url.path).lstrip("/").partition("/")
        bucket, key = (asked["bucket"], unquote(url.path)[1:]) if asked["bucket"] else (first, rest)
        self.serve(request, bucket, key, region=asked["region"] or "us-east-1", body=body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815 - the names that http.server calls

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = joined_chunks(self.rfile)
        return joined_chunks(io.BytesIO(body)) if self.headers.get("Content-Encoding") == "aws-chunked" else body

    def serve(self, request: AwsRequest, bucket: str, key: str, *, region: str, body: bytes) -> None:
        home = self.server.buckets.get(bucket)
        if home is None:
            self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif region != home:
            named = {"x-amz-bucket-region": home}
            if request.host == f"{bucket}.s3.amazonaws.com":
                self.answer(400, b"<Error><Code>IllegalLocationConstraintException</Code></Error>", named)
            else:
                self.answer(301, b"<Error><Code>PermanentRedirect</Code></Error>", named)
        elif request.signed_for and request.signed_for != home:
            wrong = f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{home}</Region></Error>"
            self.answer(400, wrong.encode(), {"x-amz-bucket-region": home})
        elif not request.signed_for:
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>", {"x-amz-bucket-region": home})
        else:
            self.serve_object(bucket, key, body)

    def serve_object(self, bucket: str, key: str, body: bytes) -> None:
        if self.command == "PUT":
            self.server.objects[bucket, key] = body
            self.answer(200, b"", {"ETag": _etag(body)})
            return
        content = self.server.objects.get((bucket, key))
        if content is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        headers = {"ETag": _etag(content)}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self.answer(206, part, headers)
        else:
            self.answer(200, content, headers)

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


class AwsDouble:
    def __init__(self, server: _Server, environment: dict[str, str], tunnels: list[str]) -> None:
        self._server = server
        self.environment = environment
        """The variables that let a program reach this AWS, with keys and without a region."""
        self.tunnels = tunnels
        """The servers to which tunnels were made, as `host:port`."""
        self.requests = server.requests

    def put(self, bucket: str, key: str, content: bytes) -> str:
        """Store an object, and return its URI."""
        self._server.objects[bucket, key] = content
        return f"s3://{bucket}/{key}"


@contextmanager
def aws_double(certificates: Certificates, buckets: Mapping[str, str]) -> Iterator[AwsDouble]:
    """Run the double until the block ends. `buckets` has the region of each bucket."""
    regions = {"us-east-1", *buckets.values()}
    names = ["*.s3.amazonaws.com", "s3.amazonaws.com", "*.amazonaws.com"]
    for region in regions:
        names += [f"{star}s3.{part}{region}.amazonaws.com" for part in ("", "dualstack.") for star in ("", "*.")]
    with ExitStack() as stack:
        server = _Server(buckets, certificates.server(host=",DNS:".join(names)))
        stack.enter_context(serving(server))
        proxy = stack.enter_context(connect_proxy("ann", "secret", upstream=("127.0.0.1", server.server_port)))
        environment = {
            "HTTPS_PROXY": proxy.url,
            "EMBEDDER_CA_BUNDLE": str(certificates.authority),
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "wJalr/secret+KEY",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        yield AwsDouble(server, environment, proxy.asked_for)
