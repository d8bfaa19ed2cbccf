"""An upgrade of a live release: which changes the chart allows, and which it refuses before the API server does."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING

import pytest

from tests.charts.api_double import api_server
from tests.charts.helm import HelmError, helms, objects, render, template
from tests.charts.objects import Object, of_kind

if TYPE_CHECKING:
    from collections.abc import Iterator


def jobs() -> list[Object]:
    """Return the Jobs of an install, as the API server returns them."""
    found = of_kind(render(), "Job")
    for job in found:
        job["metadata"]["namespace"] = "default"
        job["metadata"]["annotations"] |= {
            "meta.helm.sh/release-name": "embedder",
            "meta.helm.sh/release-namespace": "default",
        }
    return found


@pytest.fixture(scope="module")
def live_run() -> Iterator[str]:
    with api_server(jobs()) as url:
        yield url


def upgrade(url: str, program: str, *assignments: str) -> str:
    arguments = [argument for assignment in assignments for argument in ("--set", assignment)]
    options = ("--is-upgrade", "--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", url)
    return template(*options, *arguments, program=program)


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
