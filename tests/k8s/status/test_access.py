"""How `embedder status` reaches a cluster, and what it says when it cannot."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from common.errors import ClusterAccessDenied, ClusterUnavailable, ExitCode, NotInCluster, SettingsError
from common.logs import parse_line
from tests.k8s.cluster_double import NAMESPACE, TOKEN, ClusterDouble, Request, cluster_double
from tests.k8s.release_objects import pod_of, running, worker_job
from tests.k8s.status.reading import put_mixed_run, status

if TYPE_CHECKING:
    from pathlib import Path


def test_a_release_that_does_not_exist_is_an_error(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(1))
    with pytest.raises(NotInCluster, match=f"no release other in namespace {NAMESPACE}"):
        status("--release", "other")


def test_a_release_with_nothing_but_a_rerun_is_an_error(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(1, name="embedder-rerun-1", component="rerun", of=4, chunks="3"))
    with pytest.raises(NotInCluster, match="has no worker Job any more, only embedder-rerun-1"):
        status()


def test_two_runs_of_one_release_are_told_apart_by_their_names(cluster: ClusterDouble) -> None:
    for run, completed in (("media-photos", "0-2"), ("media-videos", "0")):
        job = worker_job(4, name=f"{run}-worker", completed=completed)
        pod = pod_of(job, 3, **running())
        for labels in (job["metadata"]["labels"], pod["metadata"]["labels"]):
            labels |= {"app.kubernetes.io/instance": "media", "embedder-release": run}
        cluster.put("jobs", job)
        cluster.put("pods", pod)
    for run, done in (("media-photos", 3), ("media-videos", 1)):
        found = status("--release", run)
        counts = [found["chunks"][state]["count"] for state in ("done", "running")]
        assert (found["release"], counts) == (run, [done, 1])
    with pytest.raises(SettingsError, match=r"has several runs; name one of them .*: media-photos, media-videos"):
        status("--release", "media")


def test_a_release_with_one_run_is_found_by_its_own_name_too(cluster: ClusterDouble) -> None:
    job = worker_job(4, name="clip-photos-worker", completed="0-2")
    job["metadata"]["labels"] |= {"app.kubernetes.io/instance": "clip", "embedder-release": "clip-photos"}
    cluster.put("jobs", job)
    assert status("--release", "clip")["chunks"] == status("--release", "clip-photos")["chunks"]


def test_a_forbidden_request_is_named(cluster: ClusterDouble) -> None:
    def no_pods(request: Request) -> bool:
        return request.resource != "pods"

    cluster.put("jobs", worker_job(1))
    cluster.is_allowed = no_pods
    with pytest.raises(ClusterAccessDenied, match=f"not allowed to list pods in namespace {NAMESPACE}"):
        status()


def test_a_token_that_is_not_accepted_is_an_error_with_the_remedy(cluster: ClusterDouble, tmp_path: Path) -> None:
    cluster.write_kubeconfig(tmp_path / "kubeconfig", token="an-old-token")
    with pytest.raises(ClusterAccessDenied, match=r"does not accept these credentials \(401\); log in again"):
        status()


def test_contexts_choose_the_cluster(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(1))
    assert status("--context", "double")["namespace"] == NAMESPACE
    with pytest.raises(ClusterUnavailable, match="does not answer"):
        status("--context", "elsewhere")
    with pytest.raises(ClusterAccessDenied, match="has no context nowhere, it has: double, elsewhere"):
        status("--context", "nowhere")


@pytest.mark.parametrize("content", ["", "{", "[]", "contexts: 3", "current-context: x\ncontexts: []"])
@pytest.mark.usefixtures("cluster")
def test_a_file_that_is_not_a_kubeconfig_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "kubeconfig").write_text(content)
    with pytest.raises(ClusterAccessDenied, match="cannot be used"):
        status()


def run_status(kubeconfig: Path) -> subprocess.CompletedProcess[str]:
    """Run `embedder status` in a process of its own, whose standard error is all that a person would see there."""
    return subprocess.run(
        [sys.executable, "-c", "from embedder.cli import main; main()", "status"],
        env=os.environ | {"KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("kubeconfig", "exit_code", "words"),
    [("missing", ExitCode.CONFIG_ERROR, "there is no kubeconfig"), ("gone", ExitCode.TEMPORARY_FAILURE, "not answer")],
)
def test_the_program_ends_with_one_sentence_and_the_exit_code(
    tmp_path: Path, kubeconfig: str, exit_code: ExitCode, words: str
) -> None:
    path = tmp_path / "kubeconfig"
    if kubeconfig == "gone":
        with cluster_double() as double:
            double.write_kubeconfig(path, token=TOKEN)
    ended = run_status(path)
    (line,) = map(parse_line, ended.stderr.splitlines())
    assert line is not None
    assert words in line.values["message"]
    assert ended.returncode == exit_code
    assert TOKEN not in ended.stderr


def test_a_login_server_that_does_not_answer_is_one_sentence_without_warnings(
    cluster: ClusterDouble, tmp_path: Path
) -> None:
    expired = base64.urlsafe_b64encode(json.dumps({"exp": 1}).encode()).decode().rstrip("=")
    login = {"id-token": f"e30.{expired}.x", "idp-issuer-url": "http://127.0.0.1:1", "client-id": "a"}
    path = cluster.write_kubeconfig(
        tmp_path / "kubeconfig", user={"auth-provider": {"name": "oidc", "config": login | {"refresh-token": "b"}}}
    )
    ended = run_status(path)
    (line,) = map(parse_line, ended.stderr.splitlines())
    assert line is not None
    assert "the login server" in line.values["message"]
    assert ended.returncode == ExitCode.TEMPORARY_FAILURE


def test_a_kubeconfig_that_skips_the_check_of_certificates_shows_no_warnings(tmp_path: Path, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with cluster_double(tls=context) as double:
        put_mixed_run(double)
        path = double.write_kubeconfig(tmp_path / "kubeconfig", cluster={"insecure-skip-tls-verify": True})
        ended = run_status(path)
        assert len(double.requests) >= 4
    assert "40 % of 10" in ended.stdout
    assert ended.stderr == ""
    assert ended.returncode == ExitCode.OK
