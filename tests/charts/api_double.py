"""A double of the Kubernetes API server for `helm template --dry-run=server`: its version, its kinds, and Jobs.

It may also have the Role of the merge, which shows that the release was installed before.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS = "/apis/batch/v1/namespaces/default/jobs/"
ROLE = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/embedder-merge"
ROLE_OF_RUN = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "embedder-merge"}}
VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
KINDS = {
    "v1": ["Pod", "Secret", "ServiceAccount"],
    "batch/v1": ["Job"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
}
ABSENT = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


@contextmanager
def api_server(jobs: list[dict[str, Any]], *, role: dict[str, Any] | None = ROLE_OF_RUN) -> Iterator[str]:
    """Serve `jobs` and `role` in namespace default until the block ends; yield the server's URL."""
    answers = (
        {"/version": VERSION, **_discovery()}
        | ({ROLE: role} if role else {})
        | {JOBS + job["metadata"]["name"]: job for job in jobs}
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            body = json.dumps(found or ABSENT).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def _discovery() -> dict[str, dict[str, Any]]:
    """Return the responses by which a client discovers the server's kinds, by path."""
    groups: list[dict[str, Any]] = []
    answers: dict[str, dict[str, Any]] = {"/api": {"kind": "APIVersions", "versions": ["v1"]}}
    for version, kinds in KINDS.items():
        group, slash, number = version.partition("/")
        if slash:
            groups.append({"name": group, "versions": [{"groupVersion": version, "version": number}]})
        answers[f"/apis/{version}" if slash else f"/api/{version}"] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": [
                {"name": _plural(kind), "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
                for kind in kinds
            ],
        }
    return {**answers, "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}}


def _plural(kind: str) -> str:
    return f"{kind.lower().removesuffix('y')}ies" if kind.endswith("y") else f"{kind.lower()}s"
