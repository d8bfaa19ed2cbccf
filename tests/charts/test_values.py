"""values.yaml, its comments and its schema; Helm's errors for wrong values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.charts.helm import (
    CHART,
    HELM_3,
    HELM_4,
    REQUIRED,
    HelmError,
    helms,
    objects,
    packaged_helm,
    run_helm,
    template,
    value_sets,
)
from tests.charts.objects import of_kind
from tools.values_reference import DEFAULTS, DOCUMENT, VALUES, defaults, documented_values, leaves, with_table

if TYPE_CHECKING:
    from pathlib import Path

EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])

REFUSALS = [
    (["worker.batchsize=8"], "batchsize"),
    (["wroker.batchSize=8"], "wroker"),
    (["image.worker.tga=v1"], "tga"),
    (["rerun.chunk=7"], "chunk"),
    (["topUp.chunk=7"], "chunk"),
    (["topUp.reasons={defered}"], "reasons"),
    (["topUp.attempt=0"], "attempt"),
    (["topUp.attempt=10000"], "attempt"),
    (["topUp.device=gpu"], "device"),
    (["topUp.enabled=true", "topUp.chunks=9-7"], "topUp.chunks is 9-7, which is not ascending"),
    (["topUp.enabled=true", "topUp.chunks=900"], "topUp.chunks names chunk 900"),
    (["chunks.count=0"], "count"),
    (["chunks.count=100001"], "count"),
    (["chunks.count=many"], "count"),
    (["worker.dtype=float64"], "float32"),
    (["worker.maxFailureRatio=2"], "maxFailureRatio"),
    (["worker.batchSize=-1"], "batchSize"),
    (["weights.source=disk"], "imageVolume"),
    (["merge.onFailedChunks=ignore"], "partial"),
    (["image.pullPolicy=Sometimes"], "IfNotPresent"),
    (["image.worker.digest=sha256:short"], "digest"),
    (["s3.endpointUrl=minio:9000"], "endpointUrl"),
    (["metrics.port=80"], "port"),
    (["gpu.count=-1"], "count"),
    (["worker.resources.request.cpu=1"], "request"),
    (["worker.podLabels.team.name=search"], "team"),
    (["commonLabels.team=my team"], "team"),
    ([f"worker.nodeSelector.zone={'z' * 64}"], "zone"),
    (["kueue.queueName=my/queue"], "queueName"),
    (["s3.existingSecret=My_Keys"], "existingSecret"),
    (["worker.serviceAccount.name=-"], "name"),
    (["run.pvc.claimName=1_000"], "claimName"),
    (["image.worker.tag=true"], "tag"),
    (["global=7"], "global"),
    (["mesh.sidecar=istio"], "sidecar"),
    (["tls.caBundle.configMap=a", "tls.caBundle.secret=b"], "tls.caBundle.configMap and tls.caBundle.secret"),
    (["worker.sidecars[0].name=worker"], "worker.sidecars has a container named worker"),
    (["merge.extraInitContainers[0].name=gate"], "merge.extraInitContainers has a container named gate"),
    (["manifest.uri="], "manifest.uri is not set; it is the list of images"),
    (["run.uri="], "run.uri is not set; it is where the chunks and the result are written"),
    (["chunks.count=null"], "chunks.count is not set; it is the number of chunks"),
    (["manifest.uri=list.csv"], "manifest.uri is list.csv; it must be an s3://, gs://, hf://datasets/, https"),
    (["manifest.uri=file:///list.csv"], "manifest.uri is file:///list.csv; it must be"),
    (["run.uri=gs://bucket/run"], "run.uri is gs://bucket/run; it must be s3://bucket/prefix or an absolute path"),
    (["run.uri=s3://"], "run.uri is s3://; it must be"),
    (["run.uri=/data"], "which is deleted with each pod; set run.pvc.claimName"),
    (
        ["run.uri=/data", "run.pvc.claimName=c"],
        "run.uri is /data, but the claim is mounted at run.pvc.mountPath /run-volume",
    ),
    (
        ["run.uri=/run-volumes", "run.pvc.claimName=c"],
        "run.uri is /run-volumes, but the claim is mounted at run.pvc.mountPath /run-volume",
    ),
    (["s3.existingSecret=a", "s3.accessKeyId=b", "s3.secretAccessKey=c"], "choose one"),
    (["s3.accessKeyId=b"], "belong together"),
    (["s3.secretAccessKey=b"], "belong together"),
    (["weights.source=pvc"], "weights.pvc.claimName"),
    (["weights.source=imageVolume"], "weights.imageVolume.reference"),
    (["metrics.podMonitor.enabled=true"], "metrics.podMonitor.enabled is true, but metrics.enabled is false"),
    (["worker.maxFailureRatio=1.5"], "maxFailureRatio"),
    (["worker.readTimeoutSeconds=long"], "readTimeoutSeconds"),
    (["metrics.prometheusRule.enabled=true"], "set metrics.enabled=true"),
    (["metrics.dashboard.enabled=true"], "set metrics.enabled=true"),
    (["metrics.prometheusRule.gpuBusyPercent=0"], "gpuBusyPercent"),
    (["metrics.prometheusRule.labels.some=a b"], "labels"),
    (["metrics.dashboard.labelValue=a b"], "labelValue"),
]


@EVERY_HELM
@pytest.mark.parametrize(("assignments", "sentence"), REFUSALS, ids=lambda value: " ".join(value)[:40])
def test_a_wrong_value_is_refused_by_name(program: str, assignments: list[str], sentence: str) -> None:
    arguments = [argument for assignment in assignments for argument in ("--set", assignment)]
    with pytest.raises(HelmError) as refusal:
        template(*arguments, program=program)
    assert sentence in str(refusal.value)


@EVERY_HELM
def test_the_three_required_values_are_enough(program: str) -> None:
    needed = ("manifest.uri=s3://b/list.csv", "run.uri=s3://b/run", "chunks.count=900")
    arguments = [argument for assignment in needed for argument in ("--set", assignment)]
    assert "kind: Job" in run_helm("template", "embedder", str(CHART), *arguments, program=program)
    with pytest.raises(HelmError, match=r"manifest\.uri is not set"):
        run_helm("template", "embedder", str(CHART), program=program)


@EVERY_HELM
@pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)
def test_helm_lint_finds_no_problem(program: str, values: Path) -> None:
    run_helm("lint", "--strict", str(CHART), "--values", str(REQUIRED), "--values", str(values), program=program)


@pytest.mark.skipif(len(helms()) < 2, reason="needs the packages of Helm 3 and Helm 4, for Linux on x86-64 only")
@pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)
def test_every_helm_renders_the_same(values: Path) -> None:
    assert len({template("--skip-tests", files=(values,), program=program) for program in helms()}) == 1


@pytest.mark.parametrize(
    ("package", "policy"), [(HELM_3, "before-hook-creation"), (HELM_4, "before-hook-creation,hook-succeeded")]
)
def test_the_test_pod_is_kept_for_a_helm_that_reads_its_log_after_the_test(package: str, policy: str) -> None:
    program = packaged_helm(package)
    if program is None:
        pytest.skip("needs the packages of Helm 3 and Helm 4, for Linux on x86-64 only")
    (pod,) = of_kind(list(objects(template(program=program))), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == policy


@pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)
def test_rendering_twice_gives_the_same_text(values: Path) -> None:
    assert template(files=(values,)) == template.__wrapped__(files=(values,))


@pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)
def test_no_line_of_a_render_is_blank(values: Path) -> None:
    text = template(files=(values,))
    assert [line for line in text.splitlines() if line != line.rstrip() or not line] == []


def test_every_value_is_explained() -> None:
    documented = [value.path for value in documented_values()]
    assert len(set(documented)) == len(documented)
    for leaf in leaves(yaml.safe_load(VALUES.read_text())):
        assert any(leaf == path or leaf.startswith(f"{path}.") for path in documented), leaf


def test_every_value_is_in_the_schema_and_every_property_is_in_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def properties(node: dict[str, Any], prefix: str = "") -> set[str]:
        if "$ref" in node:
            node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]]
        if "properties" not in node:
            return {prefix}
        assert node["additionalProperties"] is False, prefix
        found = ((f"{prefix}.{name}".strip("."), child) for name, child in node["properties"].items())
        return set().union(*(properties(child, path) for path, child in found))

    # A chart above this one sets the two.
    in_schema = properties(schema) - {"global", "enabled"}
    in_values = set(leaves(yaml.safe_load(VALUES.read_text())))
    for leaf in in_values:
        # A group that is null by default has its properties in the schema alone.
        assert any(leaf == path or leaf.startswith(f"{path}.") or path.startswith(f"{leaf}.") for path in in_schema), (
            leaf
        )
    for path in in_schema:
        # The properties below resources are those of Kubernetes; few have a default.
        in_resources = "esources." in path
        assert in_resources or any(leaf == path or leaf.startswith(f"{path}.") for leaf in in_values), path


def test_what_repeats_values_yaml_is_generated_from_it() -> None:
    text = DOCUMENT.read_text()
    assert with_table(text) == text, "run `make docs`"
    assert DEFAULTS.read_text() == defaults(), "run `make docs`"
