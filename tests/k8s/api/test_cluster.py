"""The client of the API: tokens, and which requests are sent again."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from common.errors import ClusterAccessDenied, ClusterUnavailable
from common.proxies import basic_authorization
from common.retry import RetryPolicy
from k8s.api.cluster import ONCE, Cluster
from k8s.api.connection import connect, in_pod_configuration
from tests.k8s.cluster_double import NAMESPACE, ClusterDouble, Fault, cluster_double
from tests.k8s.release_objects import worker_job

if TYPE_CHECKING:
    from pathlib import Path


def test_in_a_pod_the_token_is_read_again_as_it_is_rotated(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    token = certificate.with_name("token")
    with cluster_double(tls=context) as double:
        double.put("jobs", worker_job(3))
        address = urlsplit(double.url)
        token.write_text("the first token\n")
        double.tokens = {"the first token"}
        configuration = in_pod_configuration(
            token=token,
            certificate=certificate,
            environment={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(address.port)},
        )
        cluster = Cluster(configuration, namespace=NAMESPACE, retry=ONCE)
        assert cluster.job("embedder-worker")[0] is not None
        double.tokens = {"the second token"}
        with pytest.raises(ClusterAccessDenied, match="401"):
            cluster.job("embedder-worker")
        token.write_text("the second token")
        assert cluster.job("embedder-worker")[0] is not None
        token.unlink()
        with pytest.raises(ClusterAccessDenied, match="No such file"):
            cluster.job("embedder-worker")


def test_outside_of_pods_and_without_a_kubeconfig_there_is_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterAccessDenied, match="there is no kubeconfig"):
        connect()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(ClusterAccessDenied, match="this pod cannot reach its cluster"):
        connect()


def test_a_create_is_sent_again_only_after_429(cluster: ClusterDouble) -> None:
    cluster.faults = [("create", Fault(429, {"Retry-After": "1"}))]
    connect().create_job(worker_job(1, name="one") | {"spec": {"template": {"metadata": {}}}})
    assert cluster.count("create", "jobs") == 2
    cluster.faults = [("create", Fault(0))]
    with pytest.raises(ClusterUnavailable):
        connect().create_job(worker_job(1, name="two") | {"spec": {"template": {"metadata": {}}}})
    assert cluster.count("create", "jobs") == 3


def test_a_cluster_whose_certificate_is_not_trusted_is_told_at_once(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with cluster_double(tls=context) as double:
        monkeypatch.setenv("KUBECONFIG", str(double.write_kubeconfig(tmp_path / "kubeconfig")))
        patient = RetryPolicy(first_pause_seconds=60, longest_pause_seconds=60, attempts=4)
        with pytest.raises(ClusterAccessDenied) as refused:
            connect(retry=patient).jobs(labels="a=b")
    assert str(refused.value) == (
        f"the cluster at {double.url}: the certificate of the server is not trusted (self-signed certificate); give "
        "the certificate of its authority as certificate-authority of this cluster in the kubeconfig"
    )
    assert refused.value.exit_code == 78


def test_a_redirect_is_not_followed_with_the_token(cluster: ClusterDouble) -> None:
    with cluster_double() as other:
        cluster.faults = [("list", Fault(307, {"Location": f"{other.url}/api/v1/namespaces/{NAMESPACE}/pods"}))]
        with pytest.raises(ClusterUnavailable):
            list(connect().pods(labels="a=b"))
        assert not other.requests


@pytest.mark.parametrize(
    ("no_proxy", "is_direct"),
    [("10.96.0.0/12", True), ("fd00::/8,10.0.0.0/8,.svc", True), ("10.128.0.0/9,kubernetes.default.svc", False)],
)
def test_a_pod_asks_its_cluster_as_no_proxy_says(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, *, no_proxy: str, is_direct: bool
) -> None:
    for name in ("https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:s%40cret@proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    token = certificate.with_name("token")
    token.write_text("a token")
    configuration = in_pod_configuration(
        token=token,
        certificate=certificate,
        environment={"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"},
    )
    assert configuration.proxy == (None if is_direct else "http://proxy.example:3128")
    if not is_direct:
        assert configuration.proxy_headers == {"Proxy-Authorization": basic_authorization("ann", "s@cret")}


def test_the_kubeconfigs_proxy_goes_before_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: ClusterDouble
) -> None:
    cluster.put("jobs", worker_job(3))
    content = (
        "{{apiVersion: v1, kind: Config, current-context: here, contexts: [{{name: here, context: {{cluster: here, "
        "user: me, namespace: {namespace}}}}}], users: [{{name: me, user: {{token: any}}}}], "
        "clusters: [{{name: here, cluster: {{server: '{server}'{proxy}}}}}]}}"
    )
    cluster.tokens = {"any"}
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("HTTP_PROXY", cluster.url)
    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def found(*, proxy: str) -> bool:
        (tmp_path / "config").write_text(
            content.format(namespace=NAMESPACE, server="http://cluster.example", proxy=proxy)
        )
        return connect(retry=ONCE).job("embedder-worker")[0] is not None

    assert found(proxy="")  # the double plays the proxy of the environment
    with pytest.raises(ClusterUnavailable):
        found(proxy=", proxy-url: 'http://127.0.0.1:9'")
