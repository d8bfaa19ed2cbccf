"""Jobs that are made from a Job in the cluster: a rerun and a top-up from the worker Job, a top-up's merge from the
merge Job. They have the same pods, with some changes.
"""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING

from common.errors import ClusterUnavailable, SettingsError
from common.indexes import brief_indexes, compact_indexes, format_indexes
from k8s.release.job import CHUNK_COUNT, CHUNK_INDEXES, RUN_URI
from k8s.release.labels import COMPONENT_LABEL, OWN_POD_ANNOTATION, Component

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from k8s.api.cluster import Object
    from k8s.release.release import Release

GENERATED_LABELS = {
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
}
"""Labels that the API puts on the pods of a Job. Those of the first Job must not be on the pods of the derived one."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"

CHUNKS_ANNOTATION = "embedder/chunks"
"""Annotation of a Job whose list of chunks has the compact form: the beginning of the list, for people."""

READABLE_CHARACTERS = 8_000
"""Length in characters up to which a list of chunks keeps the form that people read. Every pod of the Job carries the
list, so that a longer one would fill the cluster's database: 50,000 pods with 300 KB each."""

KUEUE = "kueue.x-k8s.io/"
"""The start of Kueue's labels, annotations and scheduling gates."""

QUEUE_LABELS = {f"{KUEUE}queue-name", f"{KUEUE}priority-class"}
"""Kueue's labels of a Job that people set. It sets others itself."""

RUN_VARIABLES = {CHUNK_INDEXES, CHUNK_COUNT, RUN_URI, "JOB_COMPLETION_INDEX"}
"""The variables that make the Job a part of this run."""

_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def copy_job(source: Object, *, name: str, component: Component, owners: Iterable[Object]) -> Object:
    """Return a new Job `name` with the pods of the Job `source`, without what the API and Kueue have added to it.

    Kubernetes deletes it with the last of its owners, as after `helm uninstall`. One owner is not enough:
    ttlSecondsAfterFinished may delete one of them earlier. Without owners it stays until somebody deletes it, or until
    its own time to live is over.
    """
    spec = copy.deepcopy(source["spec"])
    # managedBy would name the controller of another cluster, where the first Job was given to one.
    for field in ("selector", "manualSelector", "suspend", "managedBy"):
        spec.pop(field, None)
    _take_out_additions(spec["template"], source["metadata"].get("annotations") or {}, component)
    labels = {
        key: value
        for key, value in (source["metadata"].get("labels") or {}).items()
        if not key.startswith(KUEUE) or key in QUEUE_LABELS
    }
    labels |= {COMPONENT_LABEL: str(component), MANAGED_BY_LABEL: "embedder"}
    metadata: Object = {"name": name, "labels": labels, "ownerReferences": [_reference(each) for each in owners]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def derive_worker_job(
    worker: Object,
    *,
    name: str,
    component: Component,
    chunks: Collection[int],
    owners: Iterable[Object],
    environment: Mapping[str, str],
    memory: str = "",
    cpu: str = "",
    parallelism: int | None = None,
) -> Object:
    """Return the Job `name` that computes the chunks as the Job `worker` does, with the given changes."""
    job = copy_job(worker, name=name, component=component, owners=owners)
    spec = job["spec"]
    spec["completions"] = len(chunks)
    spec["parallelism"] = min(parallelism or max(1, int(spec.get("parallelism") or 1)), len(chunks))
    if int(spec.get("maxFailedIndexes") or 0) > len(chunks):  # the API refuses more than there are indexes
        del spec["maxFailedIndexes"]
    container = container_of(job, "worker")
    listed = format_indexes(chunks)
    is_long = len(listed) > READABLE_CHARACTERS
    set_variables(container, dict(environment) | {CHUNK_INDEXES: compact_indexes(chunks) if is_long else listed})
    _set_resources(container, memory=memory, cpu=cpu)
    if is_long:
        job["metadata"]["annotations"] = {CHUNKS_ANNOTATION: brief_indexes(chunks)}
    return job


def container_of(job: Object, name: str) -> Object:
    """Return the container of that name in the Job's pods, an init container too. The first one where there is none."""
    pod = job["spec"]["template"]["spec"]
    containers: list[Object] = [*pod["containers"], *(pod.get("initContainers") or [])]
    return next((each for each in containers if each["name"] == name), containers[0])


def set_variables(container: Object, variables: Mapping[str, str]) -> None:
    """Give the container these variables, in place of those of the same name."""
    kept = [each for each in container.get("env") or [] if each["name"] not in variables]
    # Kubernetes reads $ in a value as the start of a reference, and $$ as itself.
    container["env"] = kept + [{"name": key, "value": value.replace("$", "$$")} for key, value in variables.items()]


def lasting_owners(release: Release) -> list[Object]:
    """Return the Jobs whose deletion is to delete a derived one: none where Kubernetes deletes them all at their end.

    A Job whose owners are gone is deleted in the middle of its work.
    """
    jobs = [release.worker, release.merge]
    owners = [release.objects[job.name] for job in jobs if job is not None]
    lasts = any(each["spec"].get("ttlSecondsAfterFinished") is None for each in owners)
    return owners if lasts else []


def prefix_of(release: Release) -> str:
    """Return the start of the names of the release's Jobs."""
    return release.worker.name.removesuffix("-worker")


def taken_numbers(prefix: str, kind: str, names: Collection[str]) -> set[int]:
    """Return each n of which `<prefix>-<kind>-<n>`, or a name that goes on with a dash, is among the names."""
    pattern = re.compile(rf"{re.escape(prefix)}-{kind}-([1-9][0-9]{{0,8}})(-.*)?")
    return {int(match[1]) for name in names if (match := pattern.fullmatch(name))}


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Return the variables of texts `NAME=VALUE`. Raises SettingsError for another text, and for RUN_VARIABLES."""
    environment = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            raise SettingsError(
                f"--set-env {assignment!r} is not an assignment; write for example EMBEDDER_BATCH_SIZE=64"
            )
        if name in RUN_VARIABLES:
            raise SettingsError(f"--set-env {name} would compute chunks of another run; leave it out")
        environment[name] = value
    return environment


def check_quantity(option: str, quantity: str) -> None:
    """Raise SettingsError unless Kubernetes can read the quantity. An empty one means no change."""
    if quantity and not _QUANTITY.fullmatch(quantity):
        raise SettingsError(f"{option} {quantity} is not a quantity; write for example 16Gi, 500m or 2")


def _take_out_additions(template: Object, annotations: Mapping[str, str], component: Component) -> None:
    """Take out of a pod template what the API and Kueue have added to it.

    Kueue adds labels, annotations, and the node selector and the tolerations of the flavor that the first Job was
    admitted with. The derived Job may be admitted with another flavor, and Kueue does not start a Job whose node
    selector contradicts it. An annotation of the first Job has what the chart has rendered.
    """
    pod, metadata = template["spec"], template.get("metadata") or {}
    own = _own_pod(annotations)
    if own is not None:
        metadata = {field: own.get(field) for field in ("labels", "annotations")}
        for field in ("nodeSelector", "tolerations"):
            pod.pop(field, None)
            if own.get(field):
                pod[field] = own[field]
    kept = {
        kind: {
            key: value
            for key, value in (metadata.get(kind) or {}).items()
            if key not in GENERATED_LABELS and not (own is None and key.startswith(KUEUE))
        }
        for kind in ("labels", "annotations")
    }
    template["metadata"] = kept | {"labels": kept["labels"] | {COMPONENT_LABEL: str(component)}}
    # A pod with a gate of Kueue would wait for ever: Kueue removes the gates of the pods that it has gated itself.
    gates = [each for each in pod.pop("schedulingGates", None) or [] if not each["name"].startswith(KUEUE)]
    if gates:
        pod["schedulingGates"] = gates


def _own_pod(annotations: Mapping[str, str]) -> Object | None:
    """Return what the chart has rendered, None for a Job that another version of the chart has created."""
    text = annotations.get(OWN_POD_ANNOTATION)
    if text is None:
        return None
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ClusterUnavailable(
            f"the annotation {OWN_POD_ANNOTATION} of the worker Job cannot be read: {error}; was it changed by hand?"
        ) from error


def _set_resources(container: Object, *, memory: str, cpu: str) -> None:
    resources = container.setdefault("resources", {})
    if memory:
        # With an equal request the pod is not evicted for memory below its limit.
        for kind in ("requests", "limits"):
            resources[kind] = (resources.get(kind) or {}) | {"memory": memory}
    if cpu:
        resources["requests"] = (resources.get("requests") or {}) | {"cpu": cpu}
        if "cpu" in (resources.get("limits") or {}):
            resources["limits"]["cpu"] = cpu


def _reference(owner: Object) -> Object:
    metadata = owner["metadata"]
    return {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
