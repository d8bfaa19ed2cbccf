"""An upgrade of a live release: which changes the chart allows, and which it refuses before the API server does."""

from __future__ import annotations

import copy
import json
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.charts.api_double import api_server
from tests.charts.helm import CHART, REQUIRED, HelmError, helms, objects, render, run_helm, template
from tests.charts.objects import Object, of_kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def jobs(*assignments: str, release: str = "embedder") -> list[Object]:
    """Return the Jobs of an install, as the API server returns them."""
    found = of_kind(render(*assignments, release=release), "Job")
    for job in found:
        job["metadata"]["namespace"] = "default"
        job["metadata"]["annotations"] |= {
            "meta.helm.sh/release-name": release,
            "meta.helm.sh/release-namespace": "default",
        }
    return found


@pytest.fixture(scope="module")
def live_run() -> Iterator[str]:
    with api_server(jobs()) as url:
        yield url


def options(url: str) -> tuple[str, ...]:
    return ("--is-upgrade", "--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", url)


def upgrade(url: str, program: str, *assignments: str, release: str = "embedder") -> str:
    arguments = [argument for assignment in assignments for argument in ("--set", assignment)]
    return template(*options(url), *arguments, release=release, program=program)


def rendered_jobs(text: str) -> dict[str, Object]:
    return {
        job["metadata"]["labels"]["app.kubernetes.io/component"]: job for job in of_kind(list(objects(text)), "Job")
    }


EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])


@EVERY_HELM
def test_an_upgrade_that_changes_nothing_renders_the_same_as_the_install(live_run: str, program: str) -> None:
    assert upgrade(live_run, program) == template(program=program)


@EVERY_HELM
@pytest.mark.parametrize(
    "assignment",
    [
        "worker.parallelism=50",
        "worker.maxFailedIndexes=3",
        "worker.activeDeadlineSeconds=60",
        "worker.ttlSecondsAfterFinished=60",
        "merge.ttlSecondsAfterFinished=60",
        "rerun.chunks=7",
        "topUp.enabled=true",
        "index.enabled=true",
        "serviceAccount.annotations.a=b",
        "networkPolicy.enabled=true",
    ],
)
def test_an_upgrade_that_a_live_job_can_take_is_allowed(live_run: str, program: str, assignment: str) -> None:
    assert "kind: Job" in upgrade(live_run, program, assignment)


@EVERY_HELM
@pytest.mark.parametrize(
    ("assignment", "job"),
    [
        ("worker.batchSize=8", "embedder-worker"),
        ("image.worker.tag=v2", "embedder-worker"),
        ("worker.backoffLimitPerIndex=9", "embedder-worker"),
        ("run.uri=s3://b/other", "embedder-merge and Job embedder-worker"),
        ("chunks.count=901", "embedder-merge and Job embedder-worker"),
        ("image.merge.tag=v2", "embedder-merge"),
        ("merge.onFailedChunks=partial", "embedder-merge"),
    ],
)
def test_an_upgrade_that_would_change_pods_is_refused_and_the_message_names_the_remedy(
    live_run: str, program: str, assignment: str, job: str
) -> None:
    deleted = job.replace(" and Job", "")
    remedy = f"kubectl delete job {deleted} --namespace default"
    with pytest.raises(HelmError, match=rf"would change the pods of Job {job}, .*{remedy}\) and upgrade again"):
        upgrade(live_run, program, assignment)


@EVERY_HELM
@pytest.mark.parametrize("assignment", ["nameOverride=photos", "fullnameOverride=photos"])
def test_an_upgrade_that_would_rename_a_live_run_is_refused(live_run: str, program: str, assignment: str) -> None:
    remedy = "kubectl delete job embedder-worker embedder-merge --namespace default"
    with pytest.raises(HelmError, match=rf"begin with .*photos now, and Job embedder-worker exists: .*{remedy}\)"):
        upgrade(live_run, program, assignment)


@EVERY_HELM
def test_an_upgrade_that_keeps_the_other_name_of_a_run_is_allowed(program: str) -> None:
    with api_server(jobs("fullnameOverride=photos")) as url:
        assert set(rendered_jobs(upgrade(url, program, "fullnameOverride=photos"))) == {"merge", "worker"}


@EVERY_HELM
def test_a_run_that_an_older_chart_named_after_its_release_alone_is_not_replaced(program: str) -> None:
    live = jobs(release="team.photos")
    for job in live:  # that chart wrote a dot as a dash, and had no label of its own
        component = job["metadata"]["labels"]["app.kubernetes.io/component"]
        job["metadata"]["name"] = f"team-photos-{component}"
        del job["metadata"]["labels"]["embedder-release"]
    with (
        api_server(live) as url,
        pytest.raises(HelmError, match="Job team-photos-worker exists: the upgrade would delete"),
    ):
        upgrade(url, program, release="team.photos")


@EVERY_HELM
def test_a_run_of_another_release_does_not_hinder_an_upgrade(program: str) -> None:
    live = jobs()
    for job in live:
        job["metadata"]["annotations"]["meta.helm.sh/release-name"] = "other"
    with api_server(live) as url:
        assert set(rendered_jobs(upgrade(url, program, "fullnameOverride=photos"))) == {"merge", "worker"}


@EVERY_HELM
def test_values_that_an_older_chart_has_stored_have_the_defaults_of_what_it_did_not_know(
    live_run: str, program: str, tmp_path: Path
) -> None:
    # With --reuse-values, Helm puts the older chart's values in the place of values.yaml.
    shutil.copytree(CHART, tmp_path / "charts")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for group in (
        "nameOverride",
        "fullnameOverride",
        "commonLabels",
        "commonAnnotations",
        "test",
        "tls",
        "mesh",
        "check",
    ):
        del values[group]
    for group in ("worker", "merge"):
        for name in ("sidecars", "extraInitContainers", "jobLabels", "jobAnnotations", "schedulerName", "hostAliases"):
            del values[group][name]
    del values["metrics"]["prometheusRule"], values["metrics"]["dashboard"], values["kueue"]["priorityClass"]
    (tmp_path / "charts" / "values.yaml").write_text(yaml.safe_dump(values))
    arguments = ("template", "embedder", str(tmp_path / "charts"), "--values", str(REQUIRED), *options(live_run))
    assert run_helm(*arguments, program=program) == template(program=program)


@EVERY_HELM
def test_a_deleted_job_may_be_created_again_with_other_pods(program: str) -> None:
    with api_server([job for job in jobs() if job["metadata"]["name"] != "embedder-merge"]) as url:
        assert "partial" in upgrade(url, program, "merge.onFailedChunks=partial")


@EVERY_HELM
def test_a_job_without_a_checksum_is_left_to_the_api_server(program: str) -> None:
    unknown = jobs()
    for job in unknown:
        del job["metadata"]["annotations"]["checksum/template"]
    with api_server(unknown) as url:
        assert "kind: Job" in upgrade(url, program, "worker.batchSize=8")


@EVERY_HELM
@pytest.mark.parametrize("component", ["worker", "merge"])
def test_an_upgrade_keeps_what_a_kueue_flavor_added_to_a_live_job(program: str, component: str) -> None:
    live = jobs()
    (job,) = [each for each in live if each["metadata"]["labels"]["app.kubernetes.io/component"] == component]
    pod = job["spec"]["template"]["spec"]
    own = copy.deepcopy(pod)
    pod["tolerations"] = [*pod.get("tolerations", []), {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]
    pod["nodeSelector"] = pod["nodeSelector"] | {"cloud.example.com/pool": "spot"}
    with api_server(live) as url:
        upgraded = rendered_jobs(upgrade(url, program, "worker.parallelism=50"))
    assert upgraded["worker"]["spec"]["parallelism"] == 50
    assert upgraded[component]["spec"]["template"] == job["spec"]["template"]
    assert upgraded[component]["metadata"]["annotations"] == {
        name: value for name, value in job["metadata"]["annotations"].items() if "helm.sh" not in name
    }
    if component == "worker":
        own_pod = json.loads(upgraded["worker"]["metadata"]["annotations"]["embedder/own-pod"])
        placement = {name: own[name] for name in ("tolerations", "nodeSelector")}
        assert own_pod == job["spec"]["template"]["metadata"] | placement


def live_without_worker(*, merge_ended: str = "") -> list[Object]:
    (merge,) = [job for job in jobs() if job["metadata"]["name"] == "embedder-merge"]
    merge["status"] = {"conditions": [{"type": merge_ended, "status": "True"}] if merge_ended else []}
    return [merge]


TIMES_TO_LIVE = ("worker.ttlSecondsAfterFinished=60", "merge.ttlSecondsAfterFinished=60")


@EVERY_HELM
def test_an_upgrade_of_a_finished_run_does_not_start_it_again(program: str) -> None:
    with api_server(live_without_worker(merge_ended="Complete")) as url:
        assert set(rendered_jobs(upgrade(url, program, *TIMES_TO_LIVE))) == {"merge"}
        # Without a time to live, somebody has deleted the Job in order to create it again.
        assert set(rendered_jobs(upgrade(url, program))) == {"merge", "worker"}


@EVERY_HELM
def test_a_rerun_does_not_bring_back_a_worker_job_whose_time_was_over(program: str) -> None:
    with api_server(live_without_worker()) as url:
        assert set(rendered_jobs(upgrade(url, program, *TIMES_TO_LIVE, "rerun.chunks=7"))) == {"merge", "rerun"}
        # The merge waits for chunks that nothing computes.
        assert set(rendered_jobs(upgrade(url, program, *TIMES_TO_LIVE))) == {"merge", "worker"}


@EVERY_HELM
def test_a_check_does_not_replace_a_merge_that_waits_after_the_worker_job(program: str) -> None:
    with api_server(live_without_worker()) as url, pytest.raises(HelmError, match="Job embedder-merge exists"):
        upgrade(url, program, *TIMES_TO_LIVE, "check.enabled=true")


@EVERY_HELM
def test_an_upgrade_after_all_jobs_were_deleted_is_refused_with_the_remedy(program: str) -> None:
    with api_server([]) as url:
        with pytest.raises(
            HelmError, match=r"no longer exist: .*ttlSecondsAfterFinished to null, or helm uninstall embedder"
        ):
            upgrade(url, program, *TIMES_TO_LIVE)
        assert set(rendered_jobs(upgrade(url, program))) == {"merge", "worker"}


@EVERY_HELM
def test_an_upgrade_that_adds_the_chart_to_a_release_is_an_install(program: str) -> None:
    with api_server([], role=None) as url:
        assert set(rendered_jobs(upgrade(url, program, *TIMES_TO_LIVE))) == {"merge", "worker"}


@EVERY_HELM
def test_an_upgrade_after_a_check_starts_the_run_whatever_the_times_to_live(program: str) -> None:
    (role,) = of_kind(render("check.enabled=true", *TIMES_TO_LIVE), "Role")
    with api_server([], role=role) as url:
        assert set(rendered_jobs(upgrade(url, program, *TIMES_TO_LIVE))) == {"merge", "worker"}


@EVERY_HELM
def test_without_a_cluster_an_upgrade_renders_all_jobs(program: str) -> None:
    arguments = [argument for assignment in TIMES_TO_LIVE for argument in ("--set", assignment)]
    assert set(rendered_jobs(template("--is-upgrade", *arguments, program=program))) == {"merge", "worker"}
