"""What platforms ask of objects and pods: labels, annotations, sidecars, certificates, quotas, meshes, GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from tests.charts.helm import CHART, HelmError, helms, render, run_helm, template, value_sets
from tests.charts.objects import Object, containers, environment, named, of_kind, pod_spec
from tests.charts.validity import valid_objects
from tools.values_reference import VALUES

if TYPE_CHECKING:
    from pathlib import Path

EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])
MAY_BE_NULL = {"resources", "gateResources", "podSecurityContext", "securityContext", "sizeLimit"}


def rendered(values: str, folder: Path) -> list[Object]:
    """Return the objects that the chart renders with the required values and these, as YAML."""
    (folder / "values.yaml").write_text(values)
    return valid_objects(template.__wrapped__(files=(folder / "values.yaml",)))


def workloads(objects: list[Object]) -> list[Object]:
    return [*of_kind(objects, "Job"), *of_kind(objects, "Pod")]


@pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)
def test_every_render_is_valid_in_names_labels_and_annotations(values: Path) -> None:
    assert valid_objects(template(files=(values,)))


# Null values


def groups(values: Object, prefix: str = "") -> list[str]:
    """Return the dotted paths of the groups of values; what Kubernetes receives as it is counts as one value."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict) and value and name not in MAY_BE_NULL:
            found += [f"{prefix}{name}", *groups(value, f"{prefix}{name}.")]
    return found


@pytest.mark.parametrize(
    "group", [path for path in groups(yaml.safe_load(VALUES.read_text())) if path not in {"manifest", "run", "chunks"}]
)
def test_a_group_that_is_null_has_its_defaults(group: str) -> None:
    assert template("--set", f"{group}=null") == template()


@EVERY_HELM
def test_every_value_that_is_null_is_its_default(program: str, tmp_path: Path) -> None:
    def emptied(values: Object) -> Object:
        return {
            name: emptied(value) if isinstance(value, dict) and value else None
            for name, value in values.items()
            if name not in {"uri", "count", *MAY_BE_NULL}
        }

    (tmp_path / "values.yaml").write_text(yaml.safe_dump(emptied(yaml.safe_load(VALUES.read_text()))))
    assert template.__wrapped__(files=(tmp_path / "values.yaml",), program=program) == template(program=program)


def test_all_groups_may_be_empty_at_once(tmp_path: Path) -> None:
    lines = [f"{name}:" for name in groups(yaml.safe_load(VALUES.read_text())) if "." not in name]
    lines = [line for line in lines if line not in {"manifest:", "run:", "chunks:"}]
    assert "s3:" in lines
    assert rendered("\n".join(lines), tmp_path) == valid_objects(template())


def test_null_keeps_its_meaning_for_what_a_pod_may_go_without() -> None:
    objects = valid_objects(
        template(
            "--set", "worker.shm.sizeLimit=null", "--set", "worker.podSecurityContext=null",
            "--set", "worker.resources.requests.cpu=null", "--set", "merge.securityContext=null",
        )
    )  # fmt: skip
    spec = pod_spec(named(objects, "Job", "embedder-worker"))
    assert "securityContext" not in spec
    assert spec["containers"][0]["resources"]["requests"] == {"memory": "6Gi"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in spec["volumes"]
    assert not any("securityContext" in each for each in containers(named(objects, "Job", "embedder-merge")))


# Labels and annotations


def test_common_labels_and_annotations_are_on_every_object_and_every_pod(tmp_path: Path) -> None:
    objects = rendered(
        """
        commonLabels: {cost-center: 4711, app.kubernetes.io/component: mine}
        commonAnnotations: {example.com/contact: search, checksum/template: mine}
        rerun: {chunks: "1"}
        networkPolicy: {enabled: true}
        metrics:
          {enabled: true, podMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}
        s3: {accessKeyId: a, secretAccessKey: b}
        """,
        tmp_path,
    )
    found = [each["metadata"] for each in objects]
    found += [each["spec"]["template"]["metadata"] for each in of_kind(objects, "Job")]
    assert len(found) == 17
    for metadata in found:
        assert metadata["labels"]["cost-center"] == "4711"
        assert metadata["labels"]["app.kubernetes.io/component"] != "mine"
        assert metadata["annotations"]["example.com/contact"] == "search"
    for job in of_kind(objects, "Job"):
        assert len(job["metadata"]["annotations"]["checksum/template"]) == 64


def test_jobs_have_labels_and_annotations_of_their_own(tmp_path: Path) -> None:
    objects = rendered(
        """
        worker: {jobLabels: {a: one, kueue.x-k8s.io/queue-name: mine}, jobAnnotations: {b: two}}
        merge: {jobLabels: {a: three}, jobAnnotations: {b: four}}
        kueue: {queueName: batch, priorityClass: high}
        rerun: {chunks: "1"}
        """,
        tmp_path,
    )
    for job in of_kind(objects, "Job"):
        labels, annotations = job["metadata"]["labels"], job["metadata"]["annotations"]
        is_merge = labels["app.kubernetes.io/component"] == "merge"
        assert (labels["a"], annotations["b"]) == (("three", "four") if is_merge else ("one", "two"))
        assert (labels["kueue.x-k8s.io/queue-name"], labels["kueue.x-k8s.io/priority-class"]) == ("batch", "high")
        assert "a" not in job["spec"]["template"]["metadata"]["labels"]


def test_a_pods_own_annotation_takes_the_place_of_the_charts(tmp_path: Path) -> None:
    objects = rendered(
        """
        worker:
          podAnnotations: {karpenter.sh/do-not-disrupt: false, kubectl.kubernetes.io/default-container: mine}
          podLabels: {sidecar.istio.io/inject: true}
        """,
        tmp_path,
    )
    metadata = named(objects, "Job", "embedder-worker")["spec"]["template"]["metadata"]
    assert metadata["annotations"]["karpenter.sh/do-not-disrupt"] == "false"
    assert metadata["annotations"]["kubectl.kubernetes.io/default-container"] == "mine"
    assert metadata["labels"]["sidecar.istio.io/inject"] == "true"


def test_the_test_pod_has_labels_and_annotations_and_runs_where_the_merge_may(tmp_path: Path) -> None:
    objects = rendered(
        """
        test: {podLabels: {kueue.x-k8s.io/queue-name: batch}, podAnnotations: {some: note, helm.sh/hook: mine}}
        merge:
          tolerations: [{key: pool, value: true, tolerationSeconds: 60}]
          nodeSelector: {pool: cpu}
          affinity: {nodeAffinity: {}}
          priorityClassName: batch
          hostAliases: [{ip: 10.0.0.5, hostnames: [store.example.com]}]
        """,
        tmp_path,
    )
    pod, merge = named(objects, "Pod", "embedder-test"), named(objects, "Job", "embedder-merge")
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "batch"
    assert pod["metadata"]["annotations"]["some"] == "note"
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    for field in ("tolerations", "nodeSelector", "affinity", "priorityClassName", "hostAliases", "volumes"):
        assert pod["spec"][field] == pod_spec(merge)[field]
    assert pod["spec"]["tolerations"] == [{"key": "pool", "value": "true", "tolerationSeconds": 60}]


def test_the_test_pod_may_be_left_out() -> None:
    assert of_kind(render("test.enabled=false"), "Pod") == []


# Pods


@pytest.mark.parametrize(
    ("resource", "keys"),
    [
        ("nvidia.com/gpu", ["nvidia.com/gpu"]),
        ("nvidia.com/mig-1g.10gb", ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu"]),
        ("nvidia.com/gpu.shared", ["nvidia.com/gpu.shared", "nvidia.com/gpu"]),
        ("amd.com/gpu", ["amd.com/gpu"]),
        ("gpu", ["gpu"]),
    ],
)
def test_a_worker_tolerates_the_taint_of_its_resource_and_of_its_vendor(resource: str, keys: list[str]) -> None:
    spec = pod_spec(named(valid_objects(template("--set", f"gpu.resourceName={resource}")), "Job", "embedder-worker"))
    assert spec["tolerations"] == [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]
    assert spec["containers"][0]["resources"]["limits"][resource] == "1"


def test_every_pod_asks_for_a_node_with_linux() -> None:
    for workload in workloads(render("rerun.chunks=1", "topUp.enabled=true")):
        assert pod_spec(workload)["nodeSelector"] == {"kubernetes.io/os": "linux"}


@pytest.mark.parametrize(("group", "first"), [("worker", "worker"), ("merge", "gate")])
def test_sidecars_end_with_the_pod_and_start_before_everything_else(group: str, first: str, tmp_path: Path) -> None:
    objects = rendered(
        f"""
        {group}:
          sidecars: [{{name: proxy, image: proxy:1}}]
          extraInitContainers: [{{name: fetch, image: fetch:1}}]
        rerun: {{chunks: "1"}}
        """,
        tmp_path,
    )
    jobs = [job for job in of_kind(objects, "Job") if (group == "merge") == ("merge" in job["metadata"]["name"])]
    # The test reaches the store as the merge does.
    for workload in [*jobs, *(of_kind(objects, "Pod") if group == "merge" else [])]:
        names = [each["name"] for each in containers(workload)]
        assert names[:3] == ["proxy", "fetch", first]
        initial = pod_spec(workload)["initContainers"]
        assert initial[0] == {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}
        assert initial[1] == {"name": "fetch", "image": "fetch:1"}


@pytest.mark.parametrize("kind", ["configMap", "secret"])
def test_certificates_are_mounted_into_every_container_and_named_to_the_program(kind: str) -> None:
    objects = valid_objects(
        template(
            "--set", f"tls.caBundle.{kind}=company", "--set", "tls.caBundle.key=bundle.pem", "--set", "rerun.chunks=1"
        )
    )
    source = {"secret": {"secretName": "company"}, "configMap": {"name": "company"}}[kind]
    volume = {"name": "ca", kind: source | {"items": [{"key": "bundle.pem", "path": "bundle.pem"}]}}
    assert len(workloads(objects)) == 4
    for workload in workloads(objects):
        assert volume in pod_spec(workload)["volumes"]
        for container in containers(workload):
            assert {"name": "ca", "mountPath": "/etc/embedder/ca", "readOnly": True} in container["volumeMounts"]
            assert environment(container)["EMBEDDER_CA_BUNDLE"] == "/etc/embedder/ca/bundle.pem"


def test_without_certificates_nothing_is_mounted() -> None:
    assert "/etc/embedder" not in template()


def test_every_container_gets_the_settings_of_the_store() -> None:
    settings = {
        "addressing": ("EMBEDDER_S3_ADDRESSING", "path"),
        "encryption": ("EMBEDDER_S3_ENCRYPTION", "aws:kms"),
        "kmsKeyId": ("EMBEDDER_S3_KMS_KEY_ID", "alias/some"),
        "requesterPays": ("EMBEDDER_S3_REQUESTER_PAYS", "true"),
    }
    objects = render(*(f"s3.{value}={text}" for value, (_, text) in settings.items()))
    for workload in workloads(objects):
        for container in containers(workload):
            assert dict(settings.values()).items() <= environment(container).items()
    assert "EMBEDDER_S3_" not in template()


def test_requests_and_limits_of_our_own_containers_satisfy_a_quota() -> None:
    objects = render("worker.resources.limits.cpu=6")
    for workload in workloads(objects):
        for container in containers(workload):
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys(), container["name"]


def test_one_service_account_may_serve_the_workers_and_the_merge() -> None:
    objects = valid_objects(
        template("--set", "worker.serviceAccount.name=shared", "--set", "merge.serviceAccount.name=shared")
    )
    assert [each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")] == ["shared"]
    assert {pod_spec(each)["serviceAccountName"] for each in workloads(objects)} == {"shared"}


@pytest.mark.parametrize(
    ("sidecar", "labels", "annotations"),
    [
        (
            "none",
            {"sidecar.istio.io/inject": "false", "kuma.io/sidecar-injection": "disabled"},
            {"linkerd.io/inject": "disabled"},
        ),
        (
            "native",
            {"sidecar.istio.io/inject": "true"},
            {
                "sidecar.istio.io/nativeSidecar": "true",
                "linkerd.io/inject": "enabled",
                "config.alpha.linkerd.io/proxy-enable-native-sidecar": "true",
                "config.beta.linkerd.io/proxy-enable-native-sidecar": "true",
            },
        ),
        ("", {}, {}),
    ],
)
def test_pods_tell_a_mesh_whether_they_want_a_sidecar(sidecar: str, labels: Object, annotations: Object) -> None:
    words = ("istio", "linkerd", "kuma")
    for workload in workloads(render(f"mesh.sidecar={sidecar}", "rerun.chunks=1", "topUp.enabled=true")):
        metadata = workload["spec"]["template"]["metadata"] if workload["kind"] == "Job" else workload["metadata"]
        for kind, expected in (("labels", labels), ("annotations", annotations)):
            found = {key: text for key, text in metadata[kind].items() if any(word in key for word in words)}
            assert found == expected


def test_pods_may_have_another_scheduler_and_another_dns(tmp_path: Path) -> None:
    section = (
        "{schedulerName: volcano, dnsPolicy: None, dnsConfig: {nameservers: [10.0.0.2]}, runtimeClassName: gvisor}"
    )
    objects = rendered(f"worker: {section}\nmerge: {section}", tmp_path)
    for workload in workloads(objects):
        spec = pod_spec(workload)
        assert (spec["schedulerName"], spec["dnsPolicy"], spec["runtimeClassName"]) == ("volcano", "None", "gvisor")
        assert spec["dnsConfig"] == {"nameservers": ["10.0.0.2"]}


@EVERY_HELM
def test_a_value_that_is_misspelt_is_refused_in_the_new_groups_too(program: str) -> None:
    for wrong in ("tls.caBundle.configmap=a", "test.label=a", "mesh.sidecars=none", "enable=true", "s3.adressing=path"):
        with pytest.raises(HelmError):
            template("--set", wrong, program=program)


@EVERY_HELM
def test_the_packaged_chart_renders_as_the_folder_does(program: str, tmp_path: Path) -> None:
    run_helm("package", str(CHART), "--destination", str(tmp_path), program=program)
    (archive,) = tmp_path.glob("embedder-*.tgz")
    values = ("--values", str(CHART / "examples" / "required.yaml"), "--set", "worker=null")
    assert run_helm("template", "embedder", str(archive), *values, program=program) == template(program=program)
