"""Helpers to read rendered objects."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """Return the object of that kind and name. Raises ValueError unless there is exactly one."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def pod_spec(workload: Object) -> Object:
    """Return the pod spec of a Job or a Pod."""
    spec: Object = workload["spec"]
    if workload["kind"] == "Job":
        spec = spec["template"]["spec"]
    return spec


def containers(workload: Object) -> list[Object]:
    """Return the containers of a Job or a Pod, init containers first."""
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def environment(container: Object) -> Object:
    """Return the variables by name: their value, or their valueFrom."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def workers_environment(objects: list[Object], job: str = "embedder-worker") -> Object:
    return environment(containers(named(objects, "Job", job))[0])


def run_of(objects: list[Object]) -> str:
    """Return the name by which the programs find the run. Every label, selector and variable must agree on it."""
    labels = {each["metadata"]["labels"]["embedder-release"] for each in objects}
    for job in of_kind(objects, "Job"):
        labels.add(job["spec"]["template"]["metadata"]["labels"]["embedder-release"])
    for kind, field in (("NetworkPolicy", "podSelector"), ("PodMonitor", "selector")):
        labels |= {each["spec"][field]["matchLabels"]["embedder-release"] for each in of_kind(objects, kind)}
    gates = [each for workload in (*of_kind(objects, "Job"), *of_kind(objects, "Pod")) for each in containers(workload)]
    labels |= {environment(each)["EMBEDDER_RELEASE"] for each in gates if each["name"] == "gate"}
    (run,) = labels
    return str(run)
