"""How a cluster is found and logged in to: by a kubeconfig, or from within a pod."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import urllib3
from kubernetes import config
from kubernetes.client import Configuration
from kubernetes.config.incluster_config import (
    SERVICE_CERT_FILENAME,
    SERVICE_HOST_ENV_NAME,
    SERVICE_TOKEN_FILENAME,
    InClusterConfigLoader,
)
from yaml import YAMLError

from common.certificates import client_context, refusal
from common.errors import ClusterAccessDenied, ClusterUnavailable
from common.proxies import EnvironmentProxies, parse_proxy
from k8s.api.cluster import RETRY, Cluster
from k8s.api.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.retry import RetryPolicy


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
    configuration.proxy = None  # so that afterwards it is the kubeconfig's
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
        trust = "give the certificate of its authority as idp-certificate-authority of the user in the kubeconfig"
        if (refused := refusal(error, f"the login server of {kubeconfig}", trust=trust)) is not None:
            raise ClusterAccessDenied(str(refused)) from error
        raise ClusterUnavailable(
            f"the login server of {kubeconfig} does not answer ({one_line(error)}); check the network"
        ) from error
    _set_proxy(configuration)
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
    configuration.proxy = None
    _set_proxy(configuration)
    key = next(iter(configuration.api_key))  # its name differs between the library's versions

    def read_token(current: Configuration) -> None:
        try:
            current.api_key[key] = f"Bearer {token.read_text().strip()}"
        except OSError as error:
            raise config.ConfigException(f"{token}: {error.strerror}") from error

    configuration.refresh_api_key_hook = read_token
    return configuration


def _set_proxy(configuration: Configuration) -> None:
    """Have the API asked through the proxy that the kubeconfig names, else through the environment's if it has one.

    The client has its own reading of NO_PROXY, and sends no password to a proxy.
    """
    named = str(configuration.proxy or "")
    configuration.no_proxy = ""
    if named.startswith("socks"):
        return  # which the client can do
    proxy = (
        parse_proxy(named, variable="the kubeconfig's proxy-url")
        if named
        else EnvironmentProxies().proxy_for_url(str(configuration.host))
    )
    configuration.proxy = proxy.address if proxy else None
    if proxy is not None and proxy.authorization:
        configuration.proxy_headers = {"Proxy-Authorization": proxy.authorization}
    if proxy is not None and proxy.scheme == "https":
        configuration.proxy_ssl_context = client_context()


def _own_namespace() -> str:
    try:
        return Path(SERVICE_TOKEN_FILENAME).with_name("namespace").read_text().strip()
    except OSError:
        return "default"


def _is_no_retry(record: logging.LogRecord) -> bool:
    """Return whether a record of urllib3 is anything but its warning that it sends a request again."""
    return not hasattr(record, "__urllib3-retry-warning")
