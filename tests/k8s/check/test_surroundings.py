"""What `embedder check` finds in the cluster, against a double of its API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from common.findings import Finding, GpuFacts, Subject, Verdict
from k8s.api.connection import connect
from k8s.check.surroundings import Workload, look_at_cluster, workload_of
from tests.k8s.release_objects import merge_job, worker_job

if TYPE_CHECKING:
    from tests.k8s.cluster_double import ClusterDouble

GPU = "nvidia.com/gpu"
INSTALLED = workload_of(worker_job(4), merge_job())


def look(workload: Workload = INSTALLED) -> dict[Subject, Finding]:
    return {finding.subject: finding for finding in look_at_cluster(connect(), workload)}


def node(name: str, gpus: int, *, unschedulable: bool = False, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"} | labels},
        "spec": {"unschedulable": unschedulable},
        "status": {"allocatable": {"cpu": "8", GPU: str(gpus)} if gpus else {"cpu": "8"}},
    }


def pod(name: str, on: str, gpus: int, *, phase: str = "Running") -> dict[str, Any]:
    container = {"name": "c", "resources": {"limits": {GPU: str(gpus)}}}
    return {"metadata": {"name": name}, "spec": {"nodeName": on, "containers": [container]}, "status": {"phase": phase}}


def test_in_a_cluster_with_everything_all_is_in_order(cluster: ClusterDouble) -> None:
    cluster.put("nodes", node("a", 4))
    cluster.put("nodes", node("b", 4))
    cluster.put("nodes", node("small", 0))
    cluster.put("nodes", node("drained", 8, unschedulable=True))
    cluster.put("pods", pod("busy", "a", 3))
    cluster.put("pods", pod("done", "b", 4, phase="Succeeded"))
    found = look()
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}, found
    assert found[Subject.GPUS].facts == GpuFacts(resource=GPU, nodes=2, allocatable=8, free=5)
    assert found[Subject.GATE].message == "the gate (ServiceAccount embedder-merge) may read Job embedder-worker"
    assert found[Subject.QUOTA].message == "no quota of namespace photos limits the workers"
    assert {request.verb for request in cluster.requests} <= {"list", "create"}
    assert {each.resource for each in cluster.requests if each.verb == "create"} == {
        "selfsubjectaccessreviews",
        "localsubjectaccessreviews",
    }


def test_missing_rights_are_named_with_what_needs_them(cluster: ClusterDouble) -> None:
    cluster.has_access = lambda spec: spec["resourceAttributes"]["verb"] != "create"
    found = look()[Subject.ACCESS]
    assert found.verdict is Verdict.WARNING
    assert "may not create jobs, needed to start or repair it (helm install, embedder rerun)" in found.message


def test_a_gate_without_its_role_is_a_warning(cluster: ClusterDouble) -> None:
    cluster.has_access = lambda spec: "user" not in spec
    found = look()[Subject.GATE]
    assert found.verdict is Verdict.WARNING
    assert "ServiceAccount embedder-merge) may not get, list, watch Job embedder-worker" in found.message
    assert "rbac.create=true" in found.message


def test_before_the_install_the_role_must_be_one_that_helm_may_create(cluster: ClusterDouble) -> None:
    assert look(Workload())[Subject.GATE].verdict is Verdict.OK
    cluster.has_access = lambda spec: spec["resourceAttributes"]["resource"] != "roles"
    found = look(Workload())[Subject.GATE]
    assert found.verdict is Verdict.WARNING
    assert "rbac.create=false" in found.message


def test_what_the_user_may_not_see_is_not_looked_at_and_no_fault(cluster: ClusterDouble) -> None:
    cluster.put("nodes", node("a", 2))
    hidden = {"localsubjectaccessreviews", "resourcequotas"}
    cluster.is_allowed = lambda request: request.resource not in hidden
    found = look()
    assert found[Subject.GATE].verdict is found[Subject.QUOTA].verdict is Verdict.SKIPPED
    assert "may not ask for the rights of ServiceAccount embedder-merge" in found[Subject.GATE].message
    cluster.is_allowed = lambda request: request.resource != "pods"
    gpus = look()[Subject.GPUS]
    assert gpus.verdict is Verdict.OK
    assert gpus.facts == GpuFacts(resource=GPU, nodes=1, allocatable=2, free=None)


@pytest.mark.parametrize(
    ("nodes", "selector", "said"),
    [
        ([node("a", 0)], {}, "no node has nvidia.com/gpu"),
        ([node("a", 1)], {"gpu": "l4"}, "no node with gpu=l4 has nvidia.com/gpu"),
    ],
)
def test_no_gpu_for_the_workers_is_a_warning(
    cluster: ClusterDouble, nodes: list[dict[str, Any]], selector: dict[str, str], said: str
) -> None:
    for each in nodes:
        cluster.put("nodes", each)
    found = look(Workload(node_selector=selector))[Subject.GPUS]
    assert found.verdict is Verdict.WARNING
    assert said in found.message


def test_gpus_that_are_all_taken_are_a_warning(cluster: ClusterDouble) -> None:
    cluster.put("nodes", node("a", 1))
    cluster.put("pods", pod("busy", "a", 1))
    found = look()[Subject.GPUS]
    assert found.verdict is Verdict.WARNING
    assert found.message.endswith("0 are free, so workers wait until other pods end")


def test_workers_without_a_gpu_need_no_node_with_one(cluster: ClusterDouble) -> None:
    found = look(Workload(requests={"cpu": "2", "memory": "4Gi"}))[Subject.GPUS]
    assert found.verdict is Verdict.SKIPPED
    assert cluster.count("list", "nodes") == 0


def quota(hard: dict[str, str], used: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "team"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}}


def test_a_quota_says_for_how_many_workers_there_is_room(cluster: ClusterDouble) -> None:
    hard = {"requests.cpu": "64", "requests.memory": "96Gi", f"requests.{GPU}": "8", "services": "1"}
    cluster.put("resourcequotas", quota(hard, {"requests.cpu": "4", "requests.memory": "0", f"requests.{GPU}": "1"}))
    assert look()[Subject.QUOTA].message == f"requests.{GPU} of ResourceQuota team leaves room for 7 workers"


def test_a_quota_without_room_for_one_worker_is_a_warning(cluster: ClusterDouble) -> None:
    cluster.put("resourcequotas", quota({"requests.cpu": "8"}, {"requests.cpu": "2500m"}))
    found = look()[Subject.QUOTA]
    assert found.verdict is Verdict.WARNING
    assert "requests.cpu is 8, used 2500m, and a worker takes 6" in found.message


def test_a_limit_range_below_a_workers_request_is_a_warning(cluster: ClusterDouble) -> None:
    limits = [{"type": "Container", "max": {"memory": "4Gi", "cpu": "16"}}]
    cluster.put("limitranges", {"metadata": {"name": "small"}, "spec": {"limits": limits}})
    found = look()[Subject.QUOTA]
    assert found.verdict is Verdict.WARNING
    assert "LimitRange small allows 4Gi memory, and a worker asks for 6Gi" in found.message


def test_a_cluster_that_does_not_answer_is_not_looked_at(cluster: ClusterDouble) -> None:
    cluster.is_allowed = lambda _: False
    assert {finding.verdict for finding in look().values()} == {Verdict.SKIPPED}
