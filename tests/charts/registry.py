"""A registry of OCI artifacts, for `helm push` and `helm pull` over HTTP."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EMPTY: Mapping[str, str] = MappingProxyType({})

BLOB = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")
UPLOADS = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/")
MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")
TAGS = re.compile(r"/v2/(?P<name>.+)/tags/list")


class Registry:
    """What has been pushed."""

    def __init__(self) -> None:
        self.address = ""
        """Host and port."""
        self.blobs: dict[str, bytes] = {}
        """The blobs by their digests, manifests included."""
        self.tags: dict[str, dict[str, str]] = {}
        """The digest of each tag, by the name of the repository."""
        self.media_types: dict[str, str] = {}
        """The media type of each manifest, by its digest."""

    def manifest(self, name: str, tag: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.blobs[self.tags[name][tag]])
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/v2/":
            self._answer(200)
        elif found := BLOB.fullmatch(path):
            self._send(found["digest"])
        elif found := MANIFEST.fullmatch(path):
            self._send(self.registry.tags.get(found["name"], {}).get(found["reference"], found["reference"]))
        elif found := TAGS.fullmatch(path):
            tags = {"name": found["name"], "tags": list(self.registry.tags.get(found["name"], {}))}
            self._answer(200, json.dumps(tags).encode())
        else:
            self._answer(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        is_upload = UPLOADS.fullmatch(urlsplit(self.path).path) is not None
        self._answer(202 if is_upload else 404, headers={"Location": f"{self.path}one"})

    def do_PUT(self) -> None:
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if found := MANIFEST.fullmatch(url.path):
            self.registry.media_types[digest] = self.headers["Content-Type"]
            if found["reference"] != digest:
                self.registry.tags.setdefault(found["name"], {})[found["reference"]] = digest
        elif parse_qs(url.query).get("digest") != [digest]:
            self._answer(400)
            return
        self.registry.blobs[digest] = content
        self._answer(201, headers={"Location": f"/v2/blobs/{digest}", "Docker-Content-Digest": digest})

    def _send(self, digest: str) -> None:
        content = self.registry.blobs.get(digest)
        if content is None:
            self._answer(404)
            return
        media_type = self.registry.media_types.get(digest, "application/octet-stream")
        self._answer(200, content, headers={"Content-Type": media_type, "Docker-Content-Digest": digest})

    def _answer(self, status: int, body: bytes = b"", *, headers: Mapping[str, str] = EMPTY) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def registry_server() -> Iterator[Registry]:
    """Serve an empty registry until the block ends."""
    registry = Registry()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": registry}))
    registry.address = f"127.0.0.1:{server.server_port}"
    with serving(server):
        yield registry
