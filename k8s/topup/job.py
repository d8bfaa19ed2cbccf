"""The Jobs of a top-up: one like the worker Job that fetches failed images again, a merge that follows it, and an index
that follows the merge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import SettingsError, TopUpRefused
from common.format.reasons import Reason
from k8s.derived_job import container_of, copy_job, derive_worker_job, set_variables, taken_numbers
from k8s.release.job import MERGE_JOB, TOP_UP, TOP_UP_JOB, TOP_UP_REASONS, environment_of
from k8s.release.labels import Component

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from k8s.api.cluster import Object

TOP_UPS = 20
"""Largest number of top-ups of a release that exist at the same time. The chart's Role lets their merges read the Jobs
of these numbers, because a Role names each object that it allows."""

DEVICE = "EMBEDDER_DEVICE"

DTYPE = "EMBEDDER_DTYPE"

GPU_DTYPE = "float16"
"""The number format that a worker chooses by itself on a GPU. All vectors of a run have one format, and a CPU would
choose another one."""

KEPT_NODE_LABELS = {"kubernetes.io/os", "kubernetes.io/arch"}
"""The labels of a node selector that say which nodes can run the image at all."""


def make_topup(
    worker: Object,
    *,
    name: str,
    chunks: Collection[int],
    reasons: str,
    owners: Iterable[Object],
    environment: Mapping[str, str],
    memory: str = "",
    cpu: str = "",
    parallelism: int | None = None,
    on_cpus: bool = False,
    node_selector: Mapping[str, str] | None = None,
) -> Object:
    """Return the Job `name` that fetches failed images of the chunks again, in pods like those of the Job `worker`.

    `reasons` are the reasons of the images, separated by commas; empty: those that a worker takes by itself. With
    `on_cpus` the pods ask for no GPU, and may run on any node or on those of `node_selector`.
    """
    variables = dict(environment) | {TOP_UP: "true"}
    if reasons:
        variables[TOP_UP_REASONS] = reasons
    if on_cpus:
        variables = _as_on_gpus(environment_of(worker)) | variables | {DEVICE: "cpu"}
    job = derive_worker_job(
        worker,
        name=name,
        component=Component.TOPUP,
        chunks=chunks,
        owners=owners,
        environment=variables,
        memory=memory,
        cpu=cpu,
        parallelism=parallelism,
    )
    if on_cpus:
        _leave_gpus(job)
    if node_selector:
        pod = job["spec"]["template"]["spec"]
        pod["nodeSelector"] = (pod.get("nodeSelector") or {}) | dict(node_selector)
    return job


def make_topup_merge(merge: Object, *, name: str, topup: str, owners: Iterable[Object]) -> Object:
    """Return the Job `name` that merges as the Job `merge` does, when the Job `topup` has ended."""
    job = copy_job(merge, name=name, component=Component.TOPUP_MERGE, owners=owners)
    set_variables(container_of(job, "gate"), {TOP_UP_JOB: topup})
    return job


def make_topup_index(index: Object, *, name: str, topup: str, owners: Iterable[Object]) -> Object:
    """Return the Job `name` that builds an index as the Job `index` does, when the merge of `topup` has ended."""
    job = copy_job(index, name=name, component=Component.TOPUP_INDEX, owners=owners)
    set_variables(container_of(job, "gate"), {TOP_UP_JOB: topup, MERGE_JOB: merge_name(topup)})
    return job


def next_topup_name(prefix: str, names: Collection[str]) -> str:
    """Return `<prefix>-topup-<n>`, where n is one more than the highest number among the names, or else a free one.

    Raises TopUpRefused when no number up to TOP_UPS is free.
    """
    taken = taken_numbers(prefix, "topup", names)
    highest = max(taken, default=0)
    free = [highest + 1] if highest < TOP_UPS else [n for n in range(1, TOP_UPS + 1) if n not in taken]
    if not free:
        raise TopUpRefused(
            f"{TOP_UPS} top-ups of {prefix} exist, from {prefix}-topup-1 on; delete those that have ended, for example "
            f"kubectl delete job {prefix}-topup-1 {prefix}-topup-1-merge"
        )
    return f"{prefix}-topup-{free[0]}"


def merge_name(topup: str) -> str:
    """Return the name of the merge that follows the top-up of that name."""
    return f"{topup}-merge"


def index_name(topup: str) -> str:
    """Return the name of the index that follows the merge of the top-up of that name."""
    return f"{topup}-index"


def parse_reasons(text: str) -> str:
    """Return the reasons, each once and separated by commas. Raises SettingsError for one that does not exist."""
    reasons = [each.strip() for each in text.split(",") if each.strip()]
    known = {str(reason) for reason in Reason}
    for reason in reasons:
        if reason not in known:
            raise SettingsError(f"--reasons {reason} is not a reason of failures.csv; choose of {', '.join(Reason)}")
    if text and not reasons:
        raise SettingsError(f"--reasons {text!r} names no reason; write for example deferred,timeout")
    return ",".join(dict.fromkeys(reasons))


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """Return the labels of texts `KEY=VALUE`. Raises SettingsError for another text."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SettingsError(f"--node-selector {text!r} is not a label; write for example pool=cpu")
        labels[key] = value
    return labels


def _as_on_gpus(worker: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that lets CPUs compute in the number format of a worker with these variables on a GPU."""
    chooses_itself = worker.get(DEVICE) == "cuda" and worker.get(DTYPE, "auto") == "auto"
    return {DTYPE: GPU_DTYPE} if chooses_itself else {}


def _leave_gpus(job: Object) -> None:
    """Take out of the pods what brings them to nodes with GPUs: resources of devices, their tolerations, and the choice
    of the nodes.
    """
    pod = job["spec"]["template"]["spec"]
    resources = container_of(job, "worker").get("resources") or {}
    # Resources with a domain are those of device plugins, as nvidia.com/gpu is.
    devices = {name for kind in ("requests", "limits") for name in resources.get(kind) or {} if "/" in name}
    for kind in ("requests", "limits"):
        if resources.get(kind):
            resources[kind] = {name: size for name, size in resources[kind].items() if name not in devices}
    taints = devices | {f"{name.partition('/')[0]}/gpu" for name in devices}
    tolerations = [each for each in pod.pop("tolerations", None) or [] if each.get("key") not in taints]
    if tolerations:
        pod["tolerations"] = tolerations
    selector = pod.pop("nodeSelector", None) or {}
    pod["nodeSelector"] = {key: value for key, value in selector.items() if key in KEPT_NODE_LABELS}
    pod.pop("runtimeClassName", None)
    affinity = pod.pop("affinity", None) or {}
    if others := {kind: rules for kind, rules in affinity.items() if kind != "nodeAffinity"}:
        pod["affinity"] = others
