"""The cluster's API: the one module that imports the kubernetes client.

Objects are returned as the API's own JSON. The errors are those of common.errors: ClusterAccessDenied, NotInCluster,
ClusterUnavailable, and SettingsError where the API finds a request invalid.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, BatchV1Api, Configuration, CoreV1Api
from kubernetes.client.exceptions import ApiException, OpenApiException
from kubernetes.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    InClusterConfigLoader,
)
from yaml import YAMLError

from common.errors import ClusterAccessDenied, ClusterUnavailable
from common.retry import GivenUp, RetryPolicy, call
from k8s.api.errors import Expired, one_line, refusal, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Object = dict[str, Any]
"""An object of the API, as JSON."""

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
"""For a caller that waits for the cluster by itself."""

RETRY_AFTER_LIMIT_SECONDS = 30.0
"""Longest Retry-After that is waited for, in seconds."""

PASSING_STATUSES = {429, 500, 502, 503, 504}
"""The HTTP statuses after which a request is sent again."""

PASSING_CREATE_STATUSES = {429}
"""The same for a request that creates an object: with 429 the API has not read it."""


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

    def pods(self, *, labels: str) -> Iterator[Object]:
        """Yield the pods with these labels (a selector)."""
        return self._pages("list pods", self._core.list_namespaced_pod, label_selector=labels)

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
        options = {"tail_lines": tail, "since_seconds": since_seconds}
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

    def _pages(self, action: str, method: Callable[..., Any], **options: Any) -> Iterator[Object]:  # noqa: ANN401
        """Yield the items of all pages. After a page that has expired, the rest is read as it is then."""
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
        **options: Any,  # noqa: ANN401 - of the method
    ) -> urllib3.BaseHTTPResponse:
        """Return the answer, unread, once there is one."""
        arguments = (*names, self.namespace)
        options |= {"_preload_content": False, "_request_timeout": (CONNECT_SECONDS, read_seconds)}
        is_create = "body" in options

        def send() -> urllib3.BaseHTTPResponse:
            response: urllib3.BaseHTTPResponse = method(*arguments, **options)
            return response

        def may_pass(error: Exception) -> bool:
            if isinstance(error, ApiException):
                return error.status in (PASSING_CREATE_STATUSES if is_create else PASSING_STATUSES)
            # A create without an answer may have been done.
            return isinstance(error, urllib3.exceptions.HTTPError | OSError) and not is_create

        try:
            return call(send, retry or self._retry, may_pass=may_pass, asked_seconds=_retry_after)
        except GivenUp as given_up:
            raise self._ours(action, given_up.error) from given_up.error
        except _CLIENT_ERRORS as error:
            raise self._ours(action, error) from error

    def _ours(self, action: str, error: Exception) -> Exception:
        """Return the error to raise for one of the client's."""
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


def connect(*, context: str = "", namespace: str = "", retry: RetryPolicy = RETRY) -> Cluster:
    """Return the cluster of the kubeconfig (KUBECONFIG, else ~/.kube/config), or else the one this pod runs in.

    The namespace is the given one, else the context's, else the pod's. Raises ClusterAccessDenied when there is no
    cluster to ask, and ClusterUnavailable when the kubeconfig's login server does not answer.
    """
    kubeconfig = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    if not any(Path(path).exists() for path in kubeconfig.split(os.pathsep) if path):
        if os.environ.get(SERVICE_HOST_ENV_NAME) and not context:
            return Cluster(in_pod_configuration(), namespace=namespace or _own_namespace(), retry=retry)
        raise ClusterAccessDenied(
            f"there is no kubeconfig at {kubeconfig}; set KUBECONFIG, or run this where kubectl works"
        )
    # The login (OIDC) sends requests through a pool of the client's, whose retries cannot be configured.
    logging.getLogger("urllib3.connectionpool").addFilter(_is_no_retry)
    configuration = Configuration()
    try:
        contexts, active = config.list_kube_config_contexts(config_file=kubeconfig)
        chosen = next((each for each in contexts if each["name"] == context), None) if context else active
        if chosen is None:
            known = ", ".join(sorted(str(each["name"]) for each in contexts)) or "none"
            raise ClusterAccessDenied(f"{kubeconfig} has no context {context}, it has: {known}")
        # Refreshed tokens are not written back: the file is kubectl's.
        config.load_kube_config(
            config_file=kubeconfig,
            context=chosen["name"],
            client_configuration=configuration,
            persist_config=False,
        )
    except (config.ConfigException, YAMLError, OSError, TypeError, KeyError, ValueError) as error:
        raise ClusterAccessDenied(f"{kubeconfig} cannot be used: {one_line(error)}") from error
    except urllib3.exceptions.HTTPError as error:
        raise ClusterUnavailable(
            f"the login server of {kubeconfig} does not answer ({one_line(error)}); check the network"
        ) from error
    own = (chosen.get("context") or {}).get("namespace")
    return Cluster(configuration, namespace=namespace or own or "default", retry=retry)


def in_pod_configuration(
    *,
    token: Path = Path(SERVICE_TOKEN_FILENAME),
    certificate: Path = Path(SERVICE_CERT_FILENAME),
    environment: Mapping[str, str] = os.environ,
) -> Configuration:
    """Return the configuration by which a pod reaches its cluster. The token is rotated, so each request reads it."""
    configuration = Configuration()
    try:
        InClusterConfigLoader(str(token), str(certificate), try_refresh_token=False, environ=environment).load_and_set(
            configuration
        )
    except (config.ConfigException, OSError) as error:
        raise ClusterAccessDenied(f"this pod cannot reach its cluster: {one_line(error)}") from error
    key = next(iter(configuration.api_key))  # its name differs between the library's versions

    def read_token(current: Configuration) -> None:
        try:
            current.api_key[key] = f"Bearer {token.read_text().strip()}"
        except OSError as error:
            raise config.ConfigException(f"{token}: {error.strerror}") from error

    configuration.refresh_api_key_hook = read_token
    return configuration


def _own_namespace() -> str:
    try:
        return Path(SERVICE_TOKEN_FILENAME).with_name("namespace").read_text().strip()
    except OSError:
        return "default"


def _event(line: bytes) -> tuple[str, Object]:
    try:
        event = json.loads(line)
        return str(event["type"]), dict(event["object"])
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterUnavailable("a watch broke off in the middle of an event") from error


def _retry_after(error: Exception) -> float:
    """Return the pause in seconds that the API asks for, 0 where it asks for none."""
    headers = (error.headers if isinstance(error, ApiException) else None) or {}
    text = str(headers.get("Retry-After") or "")
    return min(float(text), RETRY_AFTER_LIMIT_SECONDS) if text.isascii() and text.isdigit() else 0


def _is_no_retry(record: logging.LogRecord) -> bool:
    """Return whether a record of urllib3 is anything but its warning that it sends a request again."""
    return not hasattr(record, "__urllib3-retry-warning")
