"""Checks that Kubernetes makes beyond the types of fields: names, labels and annotations."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import yaml

from tests.charts.objects import containers, of_kind, pod_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.charts.objects import Object

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

LABELS = {"labels", "matchLabels", "nodeSelector"}
NAMES = {
    "name",
    "serviceAccountName",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "claimName",
    "secretName",
}
VERSION = "1.31"
"""The oldest version that the chart supports; test_kubernetes_schemas.py validates in the others."""

OWN_GROUP = re.compile(r"([a-z]+|[a-z.]+\.k8s\.io)/v[a-z0-9]+|v1")
"""Versions of Kubernetes' own kinds; others, such as those of the Prometheus operator, have no schema here."""


class _Loader(yaml.CSafeLoader):
    """Refuses a mapping with the same key twice, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"a key is there twice: {keys}"
        return super().construct_mapping(node, deep=deep)


def valid_objects(text: str) -> list[Object]:
    """Return the objects of a render. Raises AssertionError or ValidationError where Kubernetes would refuse one."""
    objects = [found for found in yaml.load_all(text, _Loader) if found]
    identities = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(identities)) == len(identities), f"two objects have one name: {identities}"
    for each in objects:
        if OWN_GROUP.fullmatch(each["apiVersion"]):
            _validate(json.dumps(each, sort_keys=True))
        for key, value in _fields(each):
            _check(key, value)
    for job in of_kind(objects, "Job"):
        host = f"{job['metadata']['name']}-{job['spec'].get('completions', 1) - 1}"
        assert len(host) <= 63, host
        assert "." not in host, host
    for workload in (*of_kind(objects, "Job"), *of_kind(objects, "Pod")):
        names = [container["name"] for container in containers(workload)]
        assert len(set(names)) == len(names), names
        volumes = {volume["name"] for volume in pod_spec(workload)["volumes"]}
        for container in containers(workload):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
    return objects


@cache
def _validate(text: str) -> None:
    kubernetes_validate.validate(json.loads(text), VERSION, strict=True)


def _fields(value: object, key: str = "") -> Iterator[tuple[str, Any]]:
    yield key, value
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _fields(child, name)
    elif isinstance(value, list):
        for child in value:
            yield from _fields(child)


def _check(key: str, value: Any) -> None:  # noqa: ANN401 - any field
    if key in LABELS:
        for label, text in value.items():
            assert LABEL_KEY.fullmatch(label), label
            assert isinstance(text, str), (label, text)
            assert LABEL_VALUE.fullmatch(text), (label, text)
    elif key == "annotations":
        assert all(isinstance(text, str) for text in value.values()), value
    elif key == "env":
        assert all(isinstance(each.get("value", ""), str) for each in value), value
    elif key == "metadata" and "name" in value:
        assert SUBDOMAIN.fullmatch(value["name"]), value["name"]
        assert len(value["name"]) <= 253
    elif key in NAMES:
        assert isinstance(value, str), (key, value)
