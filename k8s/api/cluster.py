"""The cluster's API. Only this module and k8s.api.connection import the kubernetes client.

Objects are returned as the API's own JSON. The errors are those of common.errors: ClusterAccessDenied, NotInCluster,
ClusterUnavailable, and SettingsError where the API finds a request invalid.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, AuthorizationV1Api, BatchV1Api, CoreV1Api
from kubernetes.client.exceptions import ApiException, OpenApiException

from common.errors import ClusterAccessDenied, ClusterUnavailable
from common.retry import GivenUp, RetryPolicy, call, retry_after_seconds
from k8s.api.errors import Expired, not_trusted, one_line, refusal, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubernetes.client import Configuration

Object = dict[str, Any]
"""An object of the API, as JSON."""


class Access(NamedTuple):
    """A permission that a Role can give."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    name: str = ""
    """The one object that the access is for; empty for all of them."""


PAGE = 500
"""Number of objects in one answer, as kubectl asks for."""

CONNECT_SECONDS = 5.0
"""Longest time to open a connection, in seconds."""

READ_SECONDS = 30.0
"""Longest time without a byte of an answer, in seconds."""

TAIL_SECONDS = 10.0
"""Longest time without a byte while the last lines of a log are read, in seconds: the node may be down."""

FOLLOW_SECONDS = 600.0
"""Longest time without a line of a followed log, in seconds. A worker logs more often, so the connection is then opened
again."""

CONNECTIONS = 16
"""Number of connections kept open: one for each thread that asks at the same time, and some more."""

RETRY = RetryPolicy(first_pause_seconds=0.5, longest_pause_seconds=2, attempts=4)
"""A person waits for the answer, so a request is given up within seconds."""

ONCE = replace(RETRY, attempts=1)
"""One attempt, for a caller with a retry loop of its own."""

RETRY_AFTER_LIMIT_SECONDS = 30.0
"""Longest Retry-After that is waited for, in seconds."""

PASSING_STATUSES = {429, 500, 502, 503, 504}
"""The HTTP statuses after which a request is sent again."""

PASSING_CREATE_STATUSES = {429}
"""The HTTP statuses after which a create is sent again. The API answers with 429 before it reads a request, so nothing
was created."""

_CLIENT_ERRORS = (OpenApiException, config.ConfigException, urllib3.exceptions.HTTPError, OSError)


class Cluster:
    """One namespace of a cluster."""

    def __init__(self, configuration: Configuration, *, namespace: str, retry: RetryPolicy = RETRY) -> None:
        # The client's own retries would wait for any Retry-After, and follow redirects with the token.
        configuration.retries = False
        configuration.connection_pool_maxsize = CONNECTIONS
        if not configuration.verify_ssl:
            # The kubeconfig says insecure-skip-tls-verify. urllib3 would warn of that at every request.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self.namespace = namespace
        self.host = str(configuration.host)
        self._retry = retry
        api = ApiClient(configuration)
        self._batch, self._core = BatchV1Api(api), CoreV1Api(api)
        self._authorization = AuthorizationV1Api(api)

    def jobs(self, *, labels: str) -> list[Object]:
        """Return the Jobs with these labels (a selector)."""
        return list(self._pages("list jobs", self._batch.list_namespaced_job, label_selector=labels))

    def job(self, name: str) -> tuple[Object | None, str]:
        """Return the Job of that name, None where there is none, and the version from which to watch it.

        The request is one that a Role for this name alone allows.
        """
        answer = self._get("list jobs", self._batch.list_namespaced_job, field_selector=f"metadata.name={name}")
        items = answer.get("items") or []
        return (items[0] if items else None), str((answer.get("metadata") or {}).get("resourceVersion", ""))

    def watch_job(self, name: str, *, resource_version: str, seconds: float) -> Iterator[tuple[str, Object]]:
        """Yield the events (ADDED, MODIFIED, DELETED, BOOKMARK) of the Job of that name, for `seconds` at most.

        Raises Expired when the API no longer knows that version.
        """
        response = self._open(
            "watch jobs",
            self._batch.list_namespaced_job,
            field_selector=f"metadata.name={name}",
            watch=True,
            allow_watch_bookmarks=True,
            resource_version=resource_version,
            timeout_seconds=max(1, round(seconds)),
            read_seconds=seconds + READ_SECONDS,
        )
        for line in self._lines(response):
            kind, found = _event(line)
            if kind == "ERROR":
                if found.get("code") == 410:
                    raise Expired
                raise ClusterUnavailable(f"{self.host} ended a watch: {found.get('message')}")
            yield kind, found

    def pods(self, *, labels: str, fields: str = "") -> Iterator[Object]:
        """Yield the pods with these labels and fields (selectors). A page is asked for when it is needed."""
        selectors = {"label_selector": labels} | ({"field_selector": fields} if fields else {})
        return self._pages("list pods", self._core.list_namespaced_pod, **selectors)

    def warnings_of(self, job: str, *, reason: str) -> list[Object]:
        """Return the Job's warning events of that reason."""
        fields = f"involvedObject.kind=Job,involvedObject.name={job},reason={reason},type=Warning"
        return list(self._pages("list events", self._core.list_namespaced_event, field_selector=fields))

    def log_lines(
        self,
        pod: str,
        *,
        container: str,
        tail: int | None = None,
        since_seconds: int | None = None,
        follow: bool = False,
        timestamps: bool = False,
    ) -> Iterator[str]:
        """Yield the lines of a container's log; with `follow` as they are written, until the container ends.

        A tail is asked for only once, because the node of the pod may be down. Raises ClusterUnavailable also when the
        connection breaks off.
        """
        options: dict[str, Any] = {"tail_lines": tail, "since_seconds": since_seconds}
        response = self._open(
            "read the logs of pods",
            self._core.read_namespaced_pod_log,
            pod,
            container=container,
            follow=follow,
            timestamps=timestamps,
            retry=self._retry if tail is None else ONCE,
            read_seconds=FOLLOW_SECONDS if follow else TAIL_SECONDS if tail is not None else READ_SECONDS,
            **{name: value for name, value in options.items() if value is not None},
        )
        for line in self._lines(response):
            yield line.decode("utf-8", "replace").rstrip("\r")

    def create_job(self, body: Object, *, dry_run: bool = False) -> Object:
        """Create the Job and return it; with `dry_run` the API only checks it. Raises AlreadyExists."""
        options: dict[str, Any] = {"dry_run": "All"} if dry_run else {}
        return self._parsed(self._open("create jobs", self._batch.create_namespaced_job, body=body, **options))

    def may(self, access: Access, *, service_account: str = "") -> bool:
        """Return whether this program has the access in the namespace, or else the ServiceAccount of that name.

        Raises NotAuthorized when this program may not ask for the ServiceAccount.
        """
        attributes = {"namespace": self.namespace, **access._asdict()}
        if not service_account:
            kind, review = "SelfSubjectAccessReview", self._authorization.create_self_subject_access_review
            spec: Object = {"resourceAttributes": attributes}
        else:
            kind, review = "LocalSubjectAccessReview", self._authorization.create_namespaced_local_subject_access_review
            user = f"system:serviceaccount:{self.namespace}:{service_account}"
            groups = ["system:serviceaccounts", f"system:serviceaccounts:{self.namespace}", "system:authenticated"]
            spec = {"resourceAttributes": attributes, "user": user, "groups": groups}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": kind,
            "metadata": {"namespace": self.namespace} if service_account else {},
            "spec": spec,
        }
        answer = self._parsed(self._open("ask for permissions", review, body=body, is_namespaced=bool(service_account)))
        return bool((answer.get("status") or {}).get("allowed"))

    def nodes(self) -> list[Object]:
        return list(self._pages("list nodes", self._core.list_node, is_namespaced=False))

    def pods_of_all_namespaces(self) -> Iterator[Object]:
        """Yield the pods of the cluster that have not ended."""
        fields = "status.phase!=Succeeded,status.phase!=Failed"
        return self._pages(
            "list the pods of all namespaces",
            self._core.list_pod_for_all_namespaces,
            field_selector=fields,
            is_namespaced=False,
        )

    def quotas(self) -> list[Object]:
        """Return the ResourceQuotas of the namespace."""
        return list(self._pages("list resourcequotas", self._core.list_namespaced_resource_quota))

    def limit_ranges(self) -> list[Object]:
        return list(self._pages("list limitranges", self._core.list_namespaced_limit_range))

    def _pages(self, action: str, method: Callable[..., Any], **options: Any) -> Iterator[Object]:  # noqa: ANN401
        """Yield the items of all pages. When a page has expired, the other pages show the objects as they are then."""
        token = ""
        while True:
            page = {"limit": PAGE} | ({"_continue": token} if token else {})
            try:
                answer = self._get(action, method, **page, **options)
            except Expired as expired:
                token = expired.token
                if not token:
                    raise ClusterUnavailable(f"{self.host}: a list of many pages expired; try again") from expired
                continue
            yield from answer.get("items") or []
            token = str((answer.get("metadata") or {}).get("continue") or "")
            if not token:
                return

    def _get(self, action: str, method: Callable[..., Any], **options: Any) -> Object:  # noqa: ANN401
        return self._parsed(self._open(action, method, **options))

    def _parsed(self, response: urllib3.BaseHTTPResponse) -> Object:
        try:
            answer = json.loads(response.read())
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise unavailable(self.host, error) from error
        finally:
            response.release_conn()
        if not isinstance(answer, dict):
            raise ClusterUnavailable(f"{self.host} answers with something other than an API object; is it a cluster?")
        return answer

    def _open(
        self,
        action: str,
        method: Callable[..., Any],
        *names: str,
        read_seconds: float = READ_SECONDS,
        retry: RetryPolicy | None = None,
        is_namespaced: bool = True,
        **options: Any,  # noqa: ANN401 - of the method
    ) -> urllib3.BaseHTTPResponse:
        """Send the request, again while its fault may pass. Return the answer, whose body is not read yet."""
        arguments = (*names, self.namespace) if is_namespaced else names
        options |= {"_preload_content": False, "_request_timeout": (CONNECT_SECONDS, read_seconds)}
        is_create = "body" in options

        def send() -> urllib3.BaseHTTPResponse:
            response: urllib3.BaseHTTPResponse = method(*arguments, **options)
            return response

        def may_pass(error: Exception) -> bool:
            if isinstance(error, ApiException):
                return error.status in (PASSING_CREATE_STATUSES if is_create else PASSING_STATUSES)
            if not_trusted(self.host, error) is not None:
                return False
            # A create that got no answer may have succeeded.
            return isinstance(error, urllib3.exceptions.HTTPError | OSError) and not is_create

        try:
            return call(send, retry or self._retry, may_pass=may_pass, asked_seconds=_retry_after)
        except GivenUp as given_up:
            raise self._ours(action, given_up.error) from given_up.error
        except _CLIENT_ERRORS as error:
            raise self._ours(action, error) from error

    def _ours(self, action: str, error: Exception) -> Exception:
        """Return our error for an error of the client."""
        if (untrusted := not_trusted(self.host, error)) is not None:
            return untrusted
        if isinstance(error, ApiException):
            return refusal(
                host=self.host,
                namespace=self.namespace,
                action=action,
                status=error.status or 0,
                reason=error.reason or "",
                body=error.body or "",
            )
        if isinstance(error, urllib3.exceptions.HTTPError | OSError):
            return unavailable(self.host, error)
        return ClusterAccessDenied(f"no request to {self.host}: {one_line(error)}")

    def _lines(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        rest = b""
        try:
            for piece in response.stream(None, decode_content=False):
                *lines, rest = (rest + piece).split(b"\n")
                yield from filter(None, lines)
            if rest:
                yield rest
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unavailable(self.host, error) from error
        finally:
            response.close()


def _event(line: bytes) -> tuple[str, Object]:
    try:
        event = json.loads(line)
        return str(event["type"]), dict(event["object"])
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterUnavailable("a watch broke off in the middle of an event") from error


def _retry_after(error: Exception) -> float:
    """Return the pause in seconds that the API asks for, 0 where it asks for none."""
    headers = (error.headers if isinstance(error, ApiException) else None) or {}
    return min(retry_after_seconds(str(headers.get("Retry-After") or "")), RETRY_AFTER_LIMIT_SECONDS)
