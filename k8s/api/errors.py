"""The errors for a cluster's refusals, made from an HTTP status and the API's Status object."""

from __future__ import annotations

import json
from typing import Any

from common import certificates
from common.errors import ClusterAccessDenied, ClusterUnavailable, NotInCluster, SettingsError
from common.logs import redact_urls


class Expired(Exception):
    """The API no longer knows the version or the page from which it was asked to continue."""

    def __init__(self, token: str = "") -> None:
        super().__init__(token)
        self.token = token
        """Token that continues the list all the same. Empty where there is no list to continue."""


class AlreadyExists(Exception):
    """There is an object of that name."""


class NotAuthenticated(ClusterAccessDenied):
    """The cluster does not accept the credentials."""


class NotAuthorized(ClusterAccessDenied):
    """The cluster accepts the credentials, but does not allow the request."""


class NotTrusted(ClusterAccessDenied):
    """The cluster's certificate is not accepted."""


def not_trusted(host: str, error: Exception) -> NotTrusted | None:
    """Return the error for a refused certificate of the cluster, None if `error` has another cause."""
    refused = certificates.refusal(
        error,
        f"the cluster at {host}",
        trust="give the certificate of its authority as certificate-authority of this cluster in the kubeconfig",
    )
    return None if refused is None else NotTrusted(str(refused))


def refusal(*, host: str, namespace: str, action: str, status: int, reason: str, body: str) -> Exception:
    """Return the error for an answer that is not a success. `action` is what was asked for, as in "list pods"."""
    said = _status_object(body)
    message = one_line(said.get("message") or reason or f"status {status}")
    error: Exception
    if status == 401:
        error = NotAuthenticated(
            f"the cluster at {host} does not accept these credentials (401); log in again, or choose another --context"
        )
    elif status == 403:
        # A quota or an admission rule may also refuse what is created.
        error = NotAuthorized(
            f"not allowed to {action} in namespace {namespace}: {message}; choose another -n or --context, or ask for "
            "a Role that allows it"
        )
    elif status == 404:
        error = NotInCluster(f"namespace {namespace} of the cluster at {host}: {message}")
    elif status == 410:
        error = Expired(str((said.get("metadata") or {}).get("continue") or ""))
    elif status == 409 and said.get("reason") == "AlreadyExists":
        error = AlreadyExists(message)
    elif status in {400, 422}:
        error = SettingsError(f"the cluster at {host} refuses to {action}: {message}")
    else:
        error = ClusterUnavailable(f"the cluster at {host} does not {action}: {message}; try again")
    return error


def unavailable(host: str, error: Exception) -> ClusterUnavailable:
    return ClusterUnavailable(
        redact_urls(f"the cluster at {host} does not answer ({one_line(error)}); check the context and the network")
    )


def one_line(text: object) -> str:
    return " ".join(str(text).split())[:500].rstrip(".")


def _status_object(body: str) -> dict[str, Any]:
    try:
        status = json.loads(body)
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}
