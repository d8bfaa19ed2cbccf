"""The manifests in docs/platforms.md fit the chart."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from tests.charts.helm import CHART, helms, objects, render, run_helm
from tests.charts.objects import of_kind, pod_spec
from tests.docs.test_documents import TEXTS, code_blocks
from tools.chart_package import PLACEHOLDER_SOURCE, release_version

if TYPE_CHECKING:
    from pathlib import Path

    from tests.charts.objects import Object

MANIFESTS: dict[str, Any] = {
    each["kind"]: each for block in code_blocks(TEXTS["docs/platforms.md"], "yaml") for each in [yaml.safe_load(block)]
}
EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])


def rendered_with(values: Object, release: str, folder: Path, *arguments: str, program: str) -> list[Object]:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    text = run_helm("template", release, str(CHART), "--values", str(path), *arguments, program=program)
    return list(objects(text))


@EVERY_HELM
def test_the_application_of_argo_cd_renders_the_chart_of_this_version(tmp_path: Path, program: str) -> None:
    source = MANIFESTS["Application"]["spec"]["source"]
    assert source["repoURL"] == PLACEHOLDER_SOURCE
    assert (source["path"], source["targetRevision"]) == ("charts", f"v{release_version()}")
    found = rendered_with(source["helm"]["valuesObject"], source["helm"]["releaseName"], tmp_path, program=program)
    assert {each["kind"] for each in found} == {"Job", "Role", "RoleBinding", "ServiceAccount"}
    # What Argo CD applies must not differ from one render to the next, or the Application is never in sync.
    assert found == rendered_with(source["helm"]["valuesObject"], "embedder", tmp_path, program=program)


@EVERY_HELM
def test_the_annotation_that_lets_argo_cd_replace_jobs_is_on_the_jobs(tmp_path: Path, program: str) -> None:
    options = {"argocd.argoproj.io/sync-options": "Force=true,Replace=true"}
    assert '{argocd.argoproj.io/sync-options: "Force=true,Replace=true"}' in TEXTS["docs/platforms.md"]
    values = MANIFESTS["Application"]["spec"]["source"]["helm"]["valuesObject"]
    values = {**values, "worker": {"jobAnnotations": options}, "merge": {"jobAnnotations": options}}
    for job in of_kind(rendered_with(values, "embedder", tmp_path, program=program), "Job"):
        assert options.items() <= job["metadata"]["annotations"].items()
        assert not options.keys() & job["spec"]["template"]["metadata"]["annotations"].keys()


@EVERY_HELM
def test_the_helmrelease_of_flux_renders_and_waits_for_nothing(tmp_path: Path, program: str) -> None:
    spec = MANIFESTS["HelmRelease"]["spec"]
    assert of_kind(rendered_with(spec["values"], spec["releaseName"], tmp_path, program=program), "Job")
    for action in ("install", "upgrade"):
        assert spec[action] == {"disableWait": True, "disableWaitForJobs": True, "remediation": {"retries": 0}}


def requested(pod: Object, kind: str) -> dict[str, Decimal]:
    """Return the requests or limits of a pod: the sum of its containers, or an init container's if that is larger."""
    total: dict[str, Decimal] = defaultdict(Decimal)
    for container in pod["containers"]:
        for name, amount in container["resources"].get(kind, {}).items():
            total[name] += parse_quantity(amount)
    for container in pod.get("initContainers", []):
        for name, amount in container["resources"].get(kind, {}).items():
            total[name] = max(total[name], parse_quantity(amount))
    return total


def test_the_quota_is_what_a_run_with_the_defaults_needs() -> None:
    needed: dict[str, Decimal] = defaultdict(Decimal)
    found = render()
    for workload in [*of_kind(found, "Job"), *of_kind(found, "Pod")]:
        count = workload["spec"].get("parallelism", 1)
        needed["pods"] += count
        needed["count/jobs.batch"] += workload["kind"] == "Job"
        for kind in ("requests", "limits"):
            for name, amount in requested(pod_spec(workload), kind).items():
                needed[f"{kind}.{name}"] += count * amount
    # Kubernetes takes the limit of a GPU as its request, and a quota names requests only.
    needed["requests.nvidia.com/gpu"] = needed.pop("limits.nvidia.com/gpu")
    # The merge and the test have CPU limits, the workers have none, so the quota has none either.
    needed.pop("limits.cpu")
    hard = MANIFESTS["ResourceQuota"]["spec"]["hard"]
    assert {name: parse_quantity(amount) for name, amount in hard.items()} == needed
