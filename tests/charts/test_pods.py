"""The pods: permissions, environment variables, resources and volumes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from tests.charts.helm import render, template, value_sets
from tests.charts.objects import (
    containers,
    environment,
    named,
    of_kind,
    pod_spec,
    workers_environment,
)

if TYPE_CHECKING:
    from pathlib import Path

EVERY_SET = pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)


@EVERY_SET
def test_every_pod_meets_the_restricted_pod_security_standard(values: Path) -> None:
    objects = render(files=(values,))
    for workload in [*of_kind(objects, "Job"), *of_kind(objects, "Pod")]:
        spec = pod_spec(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in containers(workload):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
        allowed = {"emptyDir", "ephemeral", "projected", "persistentVolumeClaim", "image", "configMap", "secret"}
        assert {field for volume in spec["volumes"] for field in volume} <= allowed | {"name"}


@EVERY_SET
def test_only_the_gate_mounts_an_api_token(values: Path) -> None:
    objects = render(files=(values,))
    for account in of_kind(objects, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for workload in [*of_kind(objects, "Job"), *of_kind(objects, "Pod")]:
        assert pod_spec(workload)["automountServiceAccountToken"] is False
        for container in containers(workload):
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            has_token = "/var/run/secrets/kubernetes.io/serviceaccount" in mounts
            assert has_token == (container["name"] == "gate")


@EVERY_SET
def test_services_of_the_namespace_set_no_environment_variables(values: Path) -> None:
    objects = render(files=(values,))
    for workload in [*of_kind(objects, "Job"), *of_kind(objects, "Pod")]:
        assert pod_spec(workload)["enableServiceLinks"] is False


@EVERY_SET
def test_every_mount_has_its_volume_and_no_variable_appears_twice(values: Path) -> None:
    objects = render(files=(values,))
    for workload in [*of_kind(objects, "Job"), *of_kind(objects, "Pod")]:
        volumes = [volume["name"] for volume in pod_spec(workload)["volumes"]]
        assert len(set(volumes)) == len(volumes)
        for container in containers(workload):
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
            names = [each["name"] for each in container["env"]]
            assert len(set(names)) == len(names)


def test_the_merge_waits_at_its_gate_without_a_gpu_and_with_a_small_request() -> None:
    merge = named(render(), "Job", "embedder-merge")
    gate, merger = containers(merge)
    assert [gate["command"], merger["command"]] == [["python", "-m", "k8s.gate"], ["python", "-m", "merger"]]
    assert gate["image"] == merger["image"] == "embedder-merge:0.1.0"
    assert gate["resources"]["requests"]["cpu"] == "10m"
    assert merger["resources"]["requests"] == {"cpu": "100m", "memory": "512Mi"}
    variables = environment(gate)
    assert variables["EMBEDDER_WORKER_JOB"] == "embedder-worker"
    assert variables["EMBEDDER_RELEASE"] == "embedder"
    assert variables["POD_NAMESPACE"] == {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    for name in ("EMBEDDER_RUN_URI", "EMBEDDER_CHUNK_COUNT"):
        assert variables[name] == environment(merger)[name]


def test_a_worker_requests_its_gpus_and_tolerates_their_taint() -> None:
    spec = pod_spec(named(render("gpu.count=2", "gpu.resourceName=amd.com/gpu"), "Job", "embedder-worker"))
    assert spec["containers"][0]["resources"]["limits"]["amd.com/gpu"] == "2"
    assert spec["tolerations"] == [{"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_with_gpu_count_0_nothing_in_the_render_mentions_a_gpu() -> None:
    text = template("--set", "gpu.count=0")
    assert "nvidia" not in text
    assert "cuda" not in text
    assert "tolerations" not in text


def test_the_cpu_limit_or_else_the_cpu_request_is_the_number_of_threads() -> None:
    by_request = workers_environment(render())
    by_limit = workers_environment(render("worker.resources.limits.cpu=4"))
    neither = workers_environment(render("worker.resources.requests.cpu=null"))
    for name in ("OMP_NUM_THREADS", "EMBEDDER_DECODE_THREADS"):
        assert by_request[name]["resourceFieldRef"]["resource"] == "requests.cpu"
        assert by_limit[name]["resourceFieldRef"]["resource"] == "limits.cpu"
        assert name not in neither


def test_autoscalers_are_asked_not_to_evict_workers_unless_this_is_turned_off() -> None:
    asked = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    for value, expected in (("true", asked.items()), ("false", {}.items())):
        job = named(render(f"worker.doNotDisrupt={value}"), "Job", "embedder-worker")
        annotations = job["spec"]["template"]["metadata"]["annotations"]
        assert asked.items() & annotations.items() == set(expected)


def test_shared_memory_is_a_volume_in_memory() -> None:
    (shm,) = (v for v in pod_spec(named(render(), "Job", "embedder-worker"))["volumes"] if v["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_images_are_named_by_registry_tag_or_digest() -> None:
    digest = f"sha256:{'a' * 64}"
    objects = render("image.registry=registry.example.com/team/", "image.worker.tag=v2", f"image.merge.digest={digest}")
    assert (
        containers(named(objects, "Job", "embedder-worker"))[0]["image"] == "registry.example.com/team/embedder-gpu:v2"
    )
    merge = {each["image"] for each in containers(named(objects, "Job", "embedder-merge"))}
    assert merge == {f"registry.example.com/team/embedder-merge@{digest}"}


def test_the_existing_secret_is_the_only_envfrom_source_of_every_container() -> None:
    objects = render("s3.existingSecret=keys")
    assert of_kind(objects, "Secret") == []
    for workload in [*of_kind(objects, "Job"), *of_kind(objects, "Pod")]:
        assert [each["envFrom"] for each in containers(workload)] == [[{"secretRef": {"name": "keys"}}]] * len(
            containers(workload)
        )


def test_a_key_given_as_values_appears_only_in_the_created_secret() -> None:
    secret = 'a secret with "quotes" and $(dollars)'
    objects = render(files=(next(path for path in value_sets() if path.stem == "created-secret"),))
    (found,) = of_kind(objects, "Secret")
    assert base64.b64decode(found["data"]["AWS_SECRET_ACCESS_KEY"]).decode() == secret
    others = str([each for each in objects if each is not found])
    assert secret not in others
    assert "some-key" not in others
    assert "embedder-s3" in others


@pytest.mark.parametrize(
    ("assignments", "model", "offline"),
    [
        ((), "/models", True),
        (("weights.path=/elsewhere",), "/elsewhere", True),
        (("weights.source=pvc", "weights.pvc.claimName=c"), "/models", True),
        (("weights.source=imageVolume", "weights.imageVolume.reference=i"), "/models", True),
        (("weights.source=hub",), None, False),
        (("weights.source=hub", "worker.model=openai/clip-vit-base-patch16"), "openai/clip-vit-base-patch16", False),
        (("worker.model=untrained",), "untrained", True),
    ],
)
def test_only_weights_source_hub_uses_the_hub(
    assignments: tuple[str, ...],
    model: str | None,
    offline: bool,
) -> None:
    variables = workers_environment(render(*assignments))
    assert variables.get("EMBEDDER_MODEL") == model
    assert ("HF_HUB_OFFLINE" in variables) == offline


def test_a_manifest_on_the_hub_is_not_hindered_by_weights_that_need_no_hub() -> None:
    assert "HF_HUB_OFFLINE" not in workers_environment(render("manifest.uri=hf://datasets/owner/name/"))


def test_the_token_of_the_manifest_comes_from_its_secret() -> None:
    assert "EMBEDDER_MANIFEST_TOKEN" not in workers_environment(render())
    variables = workers_environment(render("manifest.token.secret=hub", "manifest.token.key=bearer"))
    assert variables["EMBEDDER_MANIFEST_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "bearer"}}


@pytest.mark.parametrize(
    ("assignments", "source"),
    [
        (
            ("weights.source=pvc", "weights.pvc.claimName=c", "weights.pvc.subPath=b32"),
            {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}},
        ),
        (
            ("weights.source=imageVolume", "weights.imageVolume.reference=registry.example.com/clip:1"),
            {"image": {"reference": "registry.example.com/clip:1", "pullPolicy": "IfNotPresent"}},
        ),
    ],
)
def test_weights_are_mounted_read_only_where_the_worker_looks(
    assignments: tuple[str, ...], source: dict[str, Any]
) -> None:
    spec = pod_spec(named(render(*assignments), "Job", "embedder-worker"))
    (volume,) = (each for each in spec["volumes"] if each["name"] == "weights")
    (mount,) = (each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "weights")
    assert volume == {"name": "weights", **source}
    assert mount["mountPath"] == "/models"
    assert mount["readOnly"] is True


def test_the_network_policy_covers_reruns_and_blocks_private_addresses() -> None:
    (policy,) = of_kind(render("networkPolicy.enabled=true"), "NetworkPolicy")
    (expression,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert expression["values"] == ["worker", "rerun", "topup", "check"]
    assert policy["spec"]["ingress"] == []
    blocks = [to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule.get("to", [])]
    assert {"10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"} <= set(blocks[0]["except"])


def test_metrics_open_one_port_and_only_if_enabled() -> None:
    assert "ports" not in containers(named(render(), "Job", "embedder-worker"))[0]
    objects = render("metrics.enabled=true", "metrics.podMonitor.enabled=true", "networkPolicy.enabled=true")
    worker = containers(named(objects, "Job", "embedder-worker"))[0]
    assert worker["ports"] == [{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}]
    assert environment(worker)["EMBEDDER_METRICS_PORT"] == "9090"
    monitor = named(objects, "PodMonitor", "embedder-worker")
    (policy,) = of_kind(objects, "NetworkPolicy")
    assert monitor["spec"]["selector"] == policy["spec"]["podSelector"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["interval"]) == ("metrics", "30s")
    assert policy["spec"]["ingress"] == [{"ports": [{"port": 9090, "protocol": "TCP"}]}]


def test_every_container_mounts_the_claim_of_the_run() -> None:
    objects = render(files=(next(path for path in value_sets() if path.stem == "shared-folder"),))
    for workload in [*of_kind(objects, "Job"), *of_kind(objects, "Pod")]:
        for container in containers(workload):
            assert {"name": "run", "mountPath": "/run-volume"} in container["volumeMounts"]


def test_groups_of_values_may_be_set_to_null() -> None:
    nothing = ("resources", "extraEnv", "podSecurityContext", "podLabels", "nodeSelector")
    assignments = [f"{group}.{name}=null" for group in ("worker", "merge") for name in nothing]
    objects = render(*assignments, "gpu.count=0", "rerun.chunks=1", "rerun.extraEnv=null")
    for job in of_kind(objects, "Job"):
        assert not pod_spec(job)["containers"][0]["resources"]
