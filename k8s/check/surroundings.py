"""What a run meets in the cluster: rights of its user and of the gate, GPUs, and limits of the namespace."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import EmbedderError
from common.findings import Finding, GpuFacts, Subject, Verdict, skipped
from common.process.step import NotInTime, Step
from k8s.api.cluster import Access
from k8s.api.errors import NotAuthorized
from k8s.api.quantity import amount_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from k8s.api.cluster import Cluster, Object

CLUSTER_SECONDS = 15.0
"""Time in seconds for each of the four looks."""

GPU_RESOURCE = "nvidia.com/gpu"
"""The GPU resource that the chart requests by default."""

DEFAULT_REQUESTS = {GPU_RESOURCE: "1", "cpu": "6", "memory": "6Gi"}
"""What the chart's worker requests by default."""

OS_LABEL = "kubernetes.io/os"
"""The label of the nodes with Linux, which the chart always asks for."""

RIGHTS = {
    "follow a run (embedder status, logs)": [
        Access("list", "jobs", "batch"),
        Access("list", "pods"),
        Access("list", "events"),
        Access("get", "pods", subresource="log"),
    ],
    "start or repair it (helm install, embedder rerun)": [Access("create", "jobs", "batch")],
}
"""What a person needs in the namespace, by what it is for."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the run's pods ask of the cluster."""

    worker_job: str = ""
    """Name of the worker Job; empty before it is installed."""
    gate_account: str = ""
    """Name of the gate's ServiceAccount; empty if it is not known."""
    requests: Mapping[str, str] = field(default_factory=lambda: DEFAULT_REQUESTS)
    """What one worker requests, by resource."""
    node_selector: Mapping[str, str] = field(default_factory=dict)

    @property
    def gpu_resource(self) -> str:
        """Return the name of the GPU resource, empty if the workers request none."""
        return next((name for name in self.requests if "/" in name), "")


def workload_of(worker: Object, merge: Object | None) -> Workload:
    """Return what a worker Job and its merge Job ask for."""
    spec = worker["spec"]["template"]["spec"]
    resources = spec["containers"][0].get("resources") or {}
    merge_spec = merge["spec"]["template"]["spec"] if merge is not None else {}
    return Workload(
        worker_job=str(worker["metadata"]["name"]),
        gate_account=str(merge_spec.get("serviceAccountName") or ""),
        # Kubernetes takes a limit without a request for a request, as for GPUs.
        requests={**(resources.get("limits") or {}), **(resources.get("requests") or {})},
        node_selector=spec.get("nodeSelector") or {},
    )


def look_at_cluster(cluster: Cluster, workload: Workload) -> list[Finding]:
    """Return what was found. A look that the cluster does not allow or answer is a row of its own, and no fault."""
    looks: dict[Subject, Callable[[Cluster, Workload], Finding]] = {
        Subject.ACCESS: _access,
        Subject.GATE: _gate,
        Subject.GPUS: _gpus,
        Subject.QUOTA: _limits,
    }
    steps = {subject: Step(str(subject), _call(look, cluster, workload)) for subject, look in looks.items()}
    findings = []
    for subject, step in steps.items():
        late = f"the cluster at {cluster.host} did not answer within {CLUSTER_SECONDS:.0f} s"
        try:
            findings.append(step.result(seconds=CLUSTER_SECONDS, late=late))
        except NotInTime as error:
            findings.append(skipped(subject, str(error)))
        except EmbedderError as error:
            findings.append(skipped(subject, str(error)))
    return findings


def _call(look: Callable[[Cluster, Workload], Finding], cluster: Cluster, workload: Workload) -> Callable[[], Finding]:
    return lambda: look(cluster, workload)


def _access(cluster: Cluster, _: Workload) -> Finding:
    missing = {
        purpose: [_name(access) for access in accesses if not cluster.may(access)]
        for purpose, accesses in RIGHTS.items()
    }
    lacks = [f"{', '.join(names)}, needed to {purpose}" for purpose, names in missing.items() if names]
    if lacks:
        return Finding(
            subject=Subject.ACCESS,
            verdict=Verdict.WARNING,
            message=f"this user may not {'; nor '.join(lacks)}; in namespace {cluster.namespace}, ask for a Role that "
            "allows it",
        )
    return Finding(
        subject=Subject.ACCESS,
        verdict=Verdict.OK,
        message=f"this user may start, follow and repair a run in namespace {cluster.namespace}",
    )


def _gate(cluster: Cluster, workload: Workload) -> Finding:
    if not workload.gate_account:
        accesses = [Access("create", kind, "rbac.authorization.k8s.io") for kind in ("roles", "rolebindings")]
        if all(cluster.may(access) for access in accesses):
            message = "helm may create the Role by which the gate reads the worker Job"
            return Finding(subject=Subject.GATE, verdict=Verdict.OK, message=message)
        return Finding(
            subject=Subject.GATE,
            verdict=Verdict.WARNING,
            message=f"this user may not create Roles in namespace {cluster.namespace}, which rbac.create does; ask for "
            "it, or set rbac.create=false: the gate then sees only which chunks are in the store",
        )
    accesses = [Access(verb, "jobs", "batch", name=workload.worker_job) for verb in ("get", "list", "watch")]
    try:
        lacks = [access.verb for access in accesses if not cluster.may(access, service_account=workload.gate_account)]
    except NotAuthorized:
        why = f"this user may not ask for the rights of ServiceAccount {workload.gate_account}"
        return skipped(Subject.GATE, why)
    if lacks:
        return Finding(
            subject=Subject.GATE,
            verdict=Verdict.WARNING,
            message=f"the gate (ServiceAccount {workload.gate_account}) may not {', '.join(lacks)} Job "
            f"{workload.worker_job}, so it cannot tell a failed chunk from one that is computed; set rbac.create=true",
        )
    message = f"the gate (ServiceAccount {workload.gate_account}) may read Job {workload.worker_job}"
    return Finding(subject=Subject.GATE, verdict=Verdict.OK, message=message)


def _gpus(cluster: Cluster, workload: Workload) -> Finding:
    resource = workload.gpu_resource
    if not resource:
        return skipped(Subject.GPUS, "the workers request no GPU")
    names = set()
    allocatable = 0
    for node in cluster.nodes():
        labels = node["metadata"].get("labels") or {}
        count = amount_of(((node.get("status") or {}).get("allocatable") or {}).get(resource, 0))
        is_chosen = all(labels.get(name) == value for name, value in workload.node_selector.items())
        if count and is_chosen and not (node.get("spec") or {}).get("unschedulable"):
            names.add(node["metadata"]["name"])
            allocatable += int(count)
    if not allocatable:
        return Finding(
            subject=Subject.GPUS,
            verdict=Verdict.WARNING,
            message=f"no node {_chosen(workload)}has {resource}; unless an autoscaler adds nodes, workers stay "
            "Pending: install the vendor's device plugin, or set gpu.resourceName, worker.nodeSelector or gpu.count=0",
            facts=GpuFacts(resource=resource, nodes=0, allocatable=0, free=0),
        )
    free: int | None = None
    with suppress(NotAuthorized):
        taken = sum(
            _requested(pod, resource)
            for pod in cluster.pods_of_all_namespaces()
            if (pod.get("spec") or {}).get("nodeName") in names
        )
        free = max(0, allocatable - int(taken))
    wanted = int(amount_of(workload.requests[resource]))
    known = "free is unknown, because this user may not list the pods of all namespaces"
    said = known if free is None else f"{free} are free"
    facts = GpuFacts(resource=resource, nodes=len(names), allocatable=allocatable, free=free)
    nodes = "1 node" if len(names) == 1 else f"{len(names)} nodes"
    message = f"{allocatable} {resource} on {nodes} {_chosen(workload)}".rstrip() + f"; {said}"
    if free is not None and free < wanted:
        message += ", so workers wait until other pods end"
        return Finding(subject=Subject.GPUS, verdict=Verdict.WARNING, message=message, facts=facts)
    return Finding(subject=Subject.GPUS, verdict=Verdict.OK, message=message, facts=facts)


def _chosen(workload: Workload) -> str:
    """Return by which labels the workers choose their nodes, "" if any node with Linux will do."""
    labels = [f"{name}={value}" for name, value in workload.node_selector.items() if name != OS_LABEL]
    return f"with {', '.join(labels)} " if labels else ""


def _requested(pod: Object, resource: str) -> float:
    """Return how much of an extended resource a pod holds: the sum of its containers, or more for an init container."""
    spec = pod.get("spec") or {}

    def amounts(kind: str) -> list[float]:
        found: list[dict[str, Any]] = [each.get("resources") or {} for each in spec.get(kind) or []]
        return [amount_of((each.get("limits") or {}).get(resource, 0)) for each in found]

    return max([sum(amounts("containers")), *amounts("initContainers")])


def _limits(cluster: Cluster, workload: Workload) -> Finding:
    room = [each for quota in cluster.quotas() for each in _room_in(quota, workload)]
    problems = [each.describe() for each in room if each.workers < 1]
    problems += [each for limits in cluster.limit_ranges() for each in _too_large_for(limits, workload)]
    if problems:
        return Finding(
            subject=Subject.QUOTA,
            verdict=Verdict.WARNING,
            message=f"{'; '.join(problems)}; lower worker.resources, or ask for more",
        )
    tightest = min(room, key=lambda each: each.workers, default=None)
    if tightest is None:
        message = f"no quota of namespace {cluster.namespace} limits the workers"
    else:
        workers = "1 worker" if tightest.workers == 1 else f"{tightest.workers:,} workers"
        message = f"{tightest.resource} of ResourceQuota {tightest.quota} leaves room for {workers}"
    return Finding(subject=Subject.QUOTA, verdict=Verdict.OK, message=message)


class _Room(NamedTuple):
    """What a ResourceQuota leaves of one resource."""

    quota: str
    resource: str
    hard: str
    used: str
    one_worker: float
    """How much one worker takes."""

    @property
    def workers(self) -> int:
        """Return for how many workers there is room."""
        return int((amount_of(self.hard) - amount_of(self.used)) // self.one_worker)

    def describe(self) -> str:
        return (
            f"ResourceQuota {self.quota} leaves no room for a worker: {self.resource} is {self.hard}, used "
            f"{self.used}, and a worker takes {self.one_worker:,.10g}"
        )


def _room_in(quota: Object, workload: Workload) -> Iterator[_Room]:
    status = quota.get("status") or {}
    used = status.get("used") or {}
    for kind, hard in (status.get("hard") or (quota.get("spec") or {}).get("hard") or {}).items():
        one = _one_worker(kind, workload.requests)
        if one is not None:
            yield _Room(str(quota["metadata"]["name"]), kind, str(hard), str(used.get(kind, 0)), one)


def _too_large_for(limits: Object, workload: Workload) -> Iterator[str]:
    for each in (limits.get("spec") or {}).get("limits") or []:
        for kind, most in (each.get("max") or {}).items():
            wanted = workload.requests.get(kind)
            if each.get("type") in {"Container", "Pod"} and wanted and amount_of(wanted) > amount_of(most):
                yield f"LimitRange {limits['metadata']['name']} allows {most} {kind}, and a worker asks for {wanted}"


def _one_worker(kind: str, requests: Mapping[str, str]) -> float | None:
    """Return how much of a quota's resource one worker takes, None for a resource that no worker takes."""
    if kind in {"pods", "count/pods"}:
        return 1
    wanted = requests.get(kind.removeprefix("requests.").removeprefix("limits."))
    return None if wanted is None or not amount_of(wanted) else amount_of(wanted)


def _name(access: Access) -> str:
    what = f"{access.resource}/{access.subresource}" if access.subresource else access.resource
    return f"{access.verb} {what}"
