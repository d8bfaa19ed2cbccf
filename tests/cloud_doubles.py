"""Doubles of two services at their HTTP protocols: Google Cloud Storage, and the data sets of the Hugging Face hub.

The libraries that read them are the real ones. STORAGE_EMULATOR_HOST and HF_ENDPOINT lead them here.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.serving import QuietServer, serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

COMMIT = "c0ffee" * 6 + "c0ff"
"""The commit of every revision of every data set."""


@dataclass
class CloudDouble:
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    """The content by bucket and key, or by owner, name and path."""
    token: str = ""
    """The bearer token that requests must have. Other requests get the status 401."""
    status: int = 0
    """The status of every answer, if it is not 0."""
    page_size: int = 1000
    requests: list[tuple[str, str]] = field(default_factory=list, repr=False)
    """The path with its query, and the header Authorization, of every request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: CloudDouble

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        double = self.double
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization", "")
        double.requests.append((self.path, authorization))
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if double.status:
            self._refuse(double.status)
        elif double.token and authorization != f"Bearer {double.token}":
            self._refuse(HTTPStatus.UNAUTHORIZED)
        elif match := re.fullmatch(r"/download/storage/v1/b/([^/]+)/o/(.+)", parts.path):
            self._send_object(f"{match[1]}/{unquote(match[2])}", query.get("generation", ""))
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", parts.path):
            self._list_objects(match[1], query)
        elif match := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", parts.path):
            self._describe_object(match[1], unquote(match[2]))
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/[^/]+)?", parts.path):
            self._describe_repository(match[1])
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+(?:/(.*))?", parts.path):
            self._list_repository(match[1], unquote(match[2] or ""), is_recursive=query.get("recursive") == "true")
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", parts.path):
            self._describe_paths(match[1], body)
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", parts.path):
            self._send_object(f"{match[1]}/{unquote(match[3])}", match[2] if match[2] != COMMIT else "")
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    # Google Cloud Storage

    def _list_objects(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys = sorted(name.removeprefix(f"{bucket}/") for name in self.double.files if name.startswith(f"{bucket}/"))
        found = [key for key in keys if key.startswith(prefix)]
        folders = set()
        if delimiter:
            folders = {
                prefix + key[len(prefix) :].partition("/")[0] + "/" for key in found if "/" in key[len(prefix) :]
            }
            found = [key for key in found if "/" not in key[len(prefix) :]]
        start = int(query.get("pageToken", 0))
        end = start + min(self.double.page_size, int(query.get("maxResults", 1000)))
        answer: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [self._object(bucket, key) for key in found[start:end]],
        }
        if folders:
            answer["prefixes"] = sorted(folders)
        if end < len(found):
            answer["nextPageToken"] = str(end)
        self._send_json(answer)

    def _describe_object(self, bucket: str, key: str) -> None:
        if f"{bucket}/{key}" in self.double.files:
            self._send_json(self._object(bucket, key))
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _object(self, bucket: str, key: str) -> dict[str, str]:
        content = self.double.files[f"{bucket}/{key}"]
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": key,
            "size": str(len(content)),
            "generation": _generation(content),
            "etag": "etag",
            "timeCreated": "2026-11-01T00:00:00.000Z",
            "updated": "2026-11-01T00:00:00.000Z",
        }

    # The hub

    def _describe_repository(self, name: str) -> None:
        if not any(file.startswith(f"{name}/") for file in self.double.files):
            self._refuse(HTTPStatus.NOT_FOUND, **{"X-Error-Code": "RepoNotFound"})
            return
        self._send_json(
            {"id": name, "_id": "1", "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0}
        )

    def _list_repository(self, name: str, folder: str, *, is_recursive: bool) -> None:
        start = f"{name}/{folder}/" if folder else f"{name}/"
        found = {}
        for file in sorted(self.double.files):
            if file.startswith(start):
                below = file.removeprefix(start).split("/")
                depths = range(1, len(below) + 1) if is_recursive else [1]
                for depth in depths:
                    path = "/".join([*([folder] if folder else []), *below[:depth]])
                    found[path] = self._entry(name, path)
        if found:
            self._send_json(list(found.values()))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, **{"X-Error-Code": "EntryNotFound"})

    def _describe_paths(self, name: str, body: bytes) -> None:
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode())["paths"]
        below = [path for path in paths if any(file.startswith(f"{name}/{path}") for file in self.double.files)]
        self._send_json([self._entry(name, path) for path in below])

    def _entry(self, name: str, path: str) -> dict[str, object]:
        content = self.double.files.get(f"{name}/{path}")
        if content is None:
            return {"type": "directory", "path": path, "oid": "tree", "size": 0}
        return {"type": "file", "path": path, "oid": _generation(content), "size": len(content)}

    # Both

    def _send_object(self, name: str, version: str) -> None:
        content = self.double.files.get(name)
        if content is None or (version and version != _generation(content)):
            self._refuse(HTTPStatus.NOT_FOUND, **{"X-Error-Code": "EntryNotFound"})
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2] or len(content)) + 1) if asked else (0, len(content))
        part = content[start:end]
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self._send_body(part, "application/octet-stream")

    def _send_json(self, value: object) -> None:
        self.send_response(HTTPStatus.OK)
        self._send_body(json.dumps(value).encode(), "application/json")

    def _send_body(self, body: bytes, kind: str) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing: `requests` holds every request."""


def _generation(content: bytes) -> str:
    return str(int(hashlib.sha256(content).hexdigest()[:12], 16))


@contextmanager
def cloud_double(tls: ssl.SSLContext | None = None) -> Iterator[CloudDouble]:
    """Run the double on a free port of 127.0.0.1 until the block ends, over TLS with a context for it."""
    double = CloudDouble()
    server = QuietServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"double": double}))
    double.url = f"http://127.0.0.1:{server.server_port}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        double.url = f"https://localhost:{server.server_port}"
    with serving(server):
        yield double
