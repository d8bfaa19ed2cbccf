"""A double of the Kubernetes API server: the requests for Jobs, pods, events and logs that k8s sends, over HTTP.

It checks tokens and verbs, pages lists, keeps a history for watches, and misbehaves on command. Its answers follow the
API conventions: a Status for each refusal, `continue` tokens, 410 for a version that is too old, chunked streams.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.serving import QuietServer, serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

Object = dict[str, Any]

PATH = re.compile(
    r"/(?:api/v1|apis/(?:batch|authorization\.k8s\.io)/v1)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<resource>jobs|pods|events|nodes|resourcequotas|limitranges|selfsubjectaccessreviews|localsubjectaccessreviews)"
    r"(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)
TOKEN = "a-token-of-the-test"
NAMESPACE = "photos"
START = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Request(NamedTuple):
    verb: str
    resource: str
    query: dict[str, str]


class Fault(NamedTuple):
    """What a request gets instead of its answer."""

    status: int
    """The HTTP status, or 0 to drop the connection."""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class ClusterDouble:
    def __init__(self) -> None:
        kinds = ("jobs", "pods", "events", "nodes", "resourcequotas", "limitranges")
        self.objects: dict[str, dict[str, Object]] = {kind: {} for kind in kinds}
        self.logs: dict[tuple[str, str], list[str]] = {}
        """The lines of each container's log, by pod and container."""
        self.tokens = {TOKEN}
        self.is_allowed: Callable[[Request], bool] = lambda _: True
        self.has_access: Callable[[Object], bool] = lambda _: True
        """Whether an access review with this spec is answered with yes."""
        self.faults: list[tuple[str, Fault]] = []
        """Verbs and faults. The next request with the verb gets the fault, in order."""
        self.requests: list[Request] = []
        self.page_limit = 500
        self.changed = threading.Condition()
        self.is_closing = False
        self.url = ""
        self._version = 100
        self._oldest = 100
        self._history: list[tuple[int, str, str, Object]] = []
        self._streams = 0
        self._expired_tokens: set[str] = set()
        self._selections: dict[tuple[str, str, str], tuple[int, list[str]]] = {}
        """The names of the objects of a list, and the version at which they were selected, for its later pages."""

    # For the tests

    def put(self, resource: str, item: Object) -> Object:
        """Create the object or replace it, as a controller or a kubelet does."""
        with self.changed:
            name = item["metadata"]["name"]
            kind = "MODIFIED" if name in self.objects[resource] else "ADDED"
            self._version += 1
            metadata = item["metadata"]
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", _timestamp(len(self.objects[resource])))
            metadata |= {"namespace": NAMESPACE, "resourceVersion": str(self._version)}
            self.objects[resource][name] = item
            self._history.append((self._version, resource, kind, copy.deepcopy(item)))
            self.changed.notify_all()
            return item

    def delete(self, resource: str, name: str) -> None:
        with self.changed:
            self._version += 1
            gone = self.objects[resource].pop(name)
            gone["metadata"]["resourceVersion"] = str(self._version)
            self._history.append((self._version, resource, "DELETED", gone))
            self.changed.notify_all()

    def forget_history(self) -> None:
        """Compact the history: all streams end, and a watch from an earlier version gets 410 Gone."""
        with self.changed:
            self._version += 1
            self._oldest = self._version
            self._history.clear()
            self._streams += 1
            self.changed.notify_all()

    def drop_streams(self) -> None:
        """Break off all watches and followed logs in the middle of a chunk of HTTP."""
        with self.changed:
            self._streams += 1
            self.changed.notify_all()

    def append_log(self, pod: str, container: str, line: str) -> None:
        with self.changed:
            self.logs.setdefault((pod, container), []).append(line)
            self.changed.notify_all()

    def expire_pages(self) -> None:
        """Answer 410 to each request for a later page."""
        with self.changed:
            self._expired_tokens = {"*"}

    def count(self, verb: str, resource: str) -> int:
        with self.changed:
            return sum((each.verb, each.resource) == (verb, resource) for each in self.requests)

    def wait_for(self, is_so: Callable[[ClusterDouble], bool], *, seconds: float = 30) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: is_so(self), seconds), "it did not happen in time"

    def write_kubeconfig(
        self, path: Path, *, token: str = TOKEN, cluster: Object | None = None, user: Object | None = None
    ) -> Path:
        """Write a kubeconfig that leads here. `cluster` adds fields to the cluster, `user` replaces the user."""
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "double",
                    "contexts": [
                        {"name": "double", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}},
                        {"name": "elsewhere", "context": {"cluster": "gone", "user": "u"}},
                    ],
                    "clusters": [
                        {"name": "c", "cluster": {"server": self.url} | (cluster or {})},
                        {"name": "gone", "cluster": {"server": "http://127.0.0.1:1"}},
                    ],
                    "users": [{"name": "u", "user": user or {"token": token}}],
                }
            )
        )
        return path

    # For the requests

    def take_fault(self, verb: str) -> Fault | None:
        with self.changed:
            for position, (wanted, fault) in enumerate(self.faults):
                if wanted == verb:
                    del self.faults[position]
                    return fault
            return None

    def list_page(self, resource: str, query: dict[str, str]) -> tuple[list[Object], str, str]:
        """Return a page of objects, the list's version, and the token of the next page."""
        with self.changed:
            names = self._select(resource, query)
            limit = min(int(query.get("limit") or self.page_limit), self.page_limit)
            first = int(query.get("continue", "0").removeprefix("again-"))
            page = [self.objects[resource][name] for name in names[first : first + limit]]
            token = str(first + limit) if first + limit < len(names) else ""
            return page, str(self._version), token

    def _select(self, resource: str, query: dict[str, str]) -> list[str]:
        key = (resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        version, names = self._selections.get(key, (0, []))
        if version != self._version or not query.get("continue"):
            names = sorted(name for name, item in self.objects[resource].items() if _selected(item, query))
            self._selections[key] = self._version, names
        return names

    def is_expired(self, token: str) -> bool:
        with self.changed:
            return bool(self._expired_tokens) and bool(token) and not token.startswith("again-")

    def events_after(self, version: int, resource: str, query: dict[str, str]) -> list[tuple[int, str, Object]] | None:
        """Return the events that a watch has not seen, None where the history no longer has them."""
        if version < self._oldest:
            return None
        return [
            (number, kind, item)
            for number, of, kind, item in self._history
            if number > version and of == resource and _selected(item, query)
        ]

    @property
    def version(self) -> int:
        return self._version

    @property
    def streams(self) -> int:
        return self._streams


def _timestamp(position: int) -> str:
    return (START + timedelta(seconds=position)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _selected(item: Object, query: dict[str, str]) -> bool:
    labels = item["metadata"].get("labels") or {}
    for term in filter(None, re.split(r",(?![^()]*\))", query.get("labelSelector", ""))):
        if match := re.fullmatch(r"(\S+) in \((.*)\)", term):
            if labels.get(match[1]) not in [each.strip() for each in match[2].split(",")]:
                return False
        elif labels.get(term.partition("=")[0]) != term.partition("=")[2].lstrip("="):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, operator, wanted = re.split(r"(!?=)", term, maxsplit=1)
        value: Any = item
        for key in path.removesuffix("!").split("."):
            value = (value or {}).get(key)
        if (value == wanted) != (operator == "="):
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: ClusterDouble
    stream = 0
    """The generation of streams to which the answer belongs."""

    def do_GET(self) -> None:
        self._serve("list")

    def do_POST(self) -> None:
        self._serve("create")

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self, verb: str) -> None:
        double = self.double
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        match = PATH.fullmatch(parts.path)
        if match is None:
            self._refuse(404, "NotFound", "the server could not find the requested resource")
            return
        if match["log"] or query.get("watch") == "true":
            verb = "log" if match["log"] else "watch"
        request = Request(verb, match["resource"], query)
        with double.changed:
            double.requests.append(request)
            # From here on, `drop_streams` breaks off this stream too.
            self.stream = double.streams
            double.changed.notify_all()
        if self.headers.get("Authorization", "").partition(" ")[2] not in double.tokens:
            self._refuse(401, "Unauthorized", "Unauthorized")
        elif (fault := double.take_fault(verb)) is not None:
            self._fail(fault)
        elif not double.is_allowed(request):
            self._refuse(
                403,
                "Forbidden",
                f'{match["resource"]} is forbidden: User "someone" cannot {verb} resource "{match["resource"]}" in API '
                f'group "batch" in the namespace "{match["namespace"]}"',
            )
        elif verb == "log":
            self._log(match["name"], query)
        elif verb == "create":
            self._create(body, query)
        else:
            {"watch": self._watch, "list": self._list}[verb](match["resource"], query)

    def _fail(self, fault: Fault) -> None:
        if not fault.status:
            self.close_connection = True
            self.connection.close()
            return
        self._refuse(fault.status, "Injected", f"injected {fault.status}", headers=fault.headers)

    def _refuse(self, status: int, reason: str, message: str, **more: Any) -> None:  # noqa: ANN401
        headers = more.pop("headers", {})
        answer = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
        self._answer(answer | {"code": status, "metadata": more.pop("metadata", {})}, status=status, headers=headers)

    def _answer(self, answer: Object, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _list(self, resource: str, query: dict[str, str]) -> None:
        if self.double.is_expired(query.get("continue", "")):
            again = {"continue": f"again-{query['continue']}"}
            self._refuse(410, "Expired", "The provided continue parameter is too old", metadata=again)
            return
        items, version, token = self.double.list_page(resource, query)
        metadata = {"resourceVersion": version} | ({"continue": token} if token else {})
        self._answer({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})

    def _create(self, body: Object, query: dict[str, str]) -> None:
        if body["kind"].endswith("AccessReview"):
            self._answer(body | {"status": {"allowed": self.double.has_access(body["spec"])}}, status=201)
            return
        name = body["metadata"]["name"]
        labels = body["spec"]["template"]["metadata"].get("labels") or {}
        if body["spec"].get("selector") or any("controller-uid" in label for label in labels):
            self._refuse(422, "Invalid", f'Job.batch "{name}" is invalid: spec.selector: `selector` is auto-generated')
        elif name in self.double.objects["jobs"]:
            self._refuse(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
        elif query.get("dryRun") == "All":
            self._answer(body, status=201)
        else:
            self._answer(self.double.put("jobs", body | {"status": {}}), status=201)

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _break_off(self) -> None:
        self.wfile.write(b"40\r\n{")
        self.wfile.flush()
        self.close_connection = True

    def _watch(self, resource: str, query: dict[str, str]) -> None:
        double = self.double
        seen = int(query["resourceVersion"])
        deadline = datetime.now(UTC) + timedelta(seconds=int(query["timeoutSeconds"]))
        self._begin_stream()
        while True:
            with double.changed:
                events = double.events_after(seen, resource, query)
                if events == [] and self.stream == double.streams:
                    left = (deadline - datetime.now(UTC)).total_seconds()
                    if left <= 0 or double.is_closing:
                        break
                    double.changed.wait(left)
                    continue
            if self.stream != double.streams:
                self._break_off()
                return
            if events is None:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                self._chunk(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                break
            for number, kind, item in events:
                self._chunk(json.dumps({"type": kind, "object": item}).encode() + b"\n")
                seen = number
        if query.get("allowWatchBookmarks") == "true" and events is not None:
            bookmark = {"kind": "Job", "metadata": {"resourceVersion": str(double.version)}}
            self._chunk(json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n")
        self._chunk(b"")

    def _log(self, pod: str, query: dict[str, str]) -> None:
        double = self.double
        key = (pod, query["container"])
        if pod not in double.objects["pods"]:
            self._refuse(404, "NotFound", f'pods "{pod}" not found')
            return
        self._begin_stream()
        sent = 0
        with double.changed:
            lines = list(double.logs.get(key, []))
        if "tailLines" in query:
            sent = max(0, len(lines) - int(query["tailLines"]))
        while True:
            with double.changed:
                lines = double.logs.get(key, [])[sent:]
                if not lines and self.stream == double.streams:
                    phase = double.objects["pods"].get(pod, {}).get("status", {}).get("phase")
                    if query.get("follow") != "true" or phase in {None, "Succeeded", "Failed"} or double.is_closing:
                        break
                    double.changed.wait(1)
                    continue
            if self.stream != double.streams:
                self._break_off()
                return
            for line in lines:
                # The kubelet's own times are finer than those in the lines. A follower continues by them.
                stamp = f"2026-11-23T12:00:00.{sent:09}Z " if query.get("timestamps") == "true" else ""
                self._chunk(f"{stamp}{line}\n".encode())
                sent += 1
        self._chunk(b"")


@contextmanager
def cluster_double(tls: ssl.SSLContext | None = None) -> Iterator[ClusterDouble]:
    """Serve a cluster without objects until the block ends."""
    double = ClusterDouble()

    class Handler(_Handler):
        pass

    Handler.double = double
    server = QuietServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    double.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"

    def release_watches() -> None:
        with double.changed:
            double.is_closing = True
            double.changed.notify_all()

    with serving(server, before_end=release_watches):
        yield double
