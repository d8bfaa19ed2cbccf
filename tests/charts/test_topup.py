"""A top-up by topUp: a Job that fetches failed images again, and a merge that follows it."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

from common.format.reasons import MAY_PASS, Reason
from tests.charts.api_double import api_server
from tests.charts.helm import CHART, HelmError, helms, render, template
from tests.charts.objects import Object, containers, environment, named, of_kind, pod_spec
from tests.charts.test_notes import notes
from tests.charts.test_upgrade import TIMES_TO_LIVE, jobs, live_without_worker, rendered_jobs, upgrade
from tools.values_reference import VALUES, documented_values

EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])

ENABLED = "topUp.enabled=true"
TERMS = "worker.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"


def top_up(*assignments: str, number: int = 1) -> Object:
    return named(render(ENABLED, *assignments), "Job", f"embedder-topup-{number}")


def test_a_top_up_is_the_worker_job_with_a_setting_more() -> None:
    objects = render(ENABLED)
    worker, ours = (copy.deepcopy(named(objects, "Job", f"embedder-{name}")) for name in ("worker", "topup-1"))
    expected = environment(containers(worker)[0])
    assert environment(containers(ours)[0]) == expected | {"EMBEDDER_TOP_UP": "true"}
    for job in (worker, ours):
        containers(job)[0]["env"].clear()
        del job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
    assert ours["spec"] == worker["spec"]


def test_its_merge_is_the_merge_job_with_a_gate_that_waits_for_it() -> None:
    objects = render(ENABLED)
    merge, ours = (copy.deepcopy(named(objects, "Job", f"embedder-{name}")) for name in ("merge", "topup-1-merge"))
    theirs = environment(containers(merge)[0])
    assert environment(containers(ours)[0]) == theirs | {"EMBEDDER_TOP_UP_JOB": "embedder-topup-1"}
    for job in (merge, ours):
        containers(job)[0]["env"].clear()
        del job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
    assert ours["spec"] == merge["spec"]


def test_chunks_reasons_parallelism_and_variables_are_those_of_the_values() -> None:
    job = top_up(
        *("topUp.chunks=3\\,7-9", "topUp.reasons={deferred,not_found}", "topUp.parallelism=2", "topUp.memory=16Gi"),
        *("topUp.extraEnv[0].name=EMBEDDER_FETCH_CONCURRENCY", "topUp.extraEnv[0].value=8"),
        "worker.fetchConcurrency=32",
    )
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (4, 2)
    variables = environment(containers(job)[0])
    assert variables["EMBEDDER_CHUNK_INDEXES"] == "3,7-9"
    assert variables["EMBEDDER_TOP_UP_REASONS"] == "deferred,not_found"
    assert variables["EMBEDDER_FETCH_CONCURRENCY"] == "8"
    resources = containers(job)[0]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "16Gi"
    assert environment(containers(top_up("topUp.chunks=7"))[0])["EMBEDDER_CHUNK_INDEXES"] == "7"


def test_on_cpus_a_top_up_asks_for_no_gpu_and_goes_to_no_node_with_gpus() -> None:
    gpus = (
        *("worker.nodeSelector.pool=gpus", "worker.runtimeClassName=nvidia", "worker.tolerations[0].key=spot"),
        f"{TERMS}[0].matchExpressions[0].key=gpu",
    )
    pod = pod_spec(top_up(*gpus, "topUp.device=cpu"))
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["tolerations"] == [{"key": "spot"}]
    assert not {"runtimeClassName", "affinity"} & pod.keys()
    container = pod["containers"][0]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert environment(container)["EMBEDDER_DEVICE"] == "cpu"
    # All vectors have the number format that the workers have on GPUs.
    for assignments, dtype in ((), "float16"), (("worker.dtype=bfloat16",), "bfloat16"), (("gpu.count=0",), None):
        moved = containers(top_up(*assignments, "topUp.device=cpu"))[0]
        assert environment(moved).get("EMBEDDER_DTYPE") == dtype

    chosen = pod_spec(
        top_up(*gpus, "topUp.device=cpu", "topUp.nodeSelector.pool=cpus", "topUp.resources.requests.cpu=2")
    )
    assert chosen["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "cpus"}
    assert chosen["containers"][0]["resources"] == {"requests": {"cpu": 2}}
    # The worker Job of the same release keeps what it has.
    worker = pod_spec(named(render(ENABLED, *gpus, "topUp.device=cpu"), "Job", "embedder-worker"))
    assert worker == pod_spec(named(render(*gpus), "Job", "embedder-worker"))


def test_the_gate_may_read_the_top_up_whatever_its_number() -> None:
    role = named(render(ENABLED, "topUp.attempt=77"), "Role", "embedder-merge")
    assert "embedder-topup-77" in role["rules"][0]["resourceNames"]
    assert len(set(role["rules"][0]["resourceNames"])) == len(role["rules"][0]["resourceNames"])


def test_a_release_that_only_checks_has_no_top_up() -> None:
    (job,) = of_kind(render(ENABLED, "check.enabled=true"), "Job")
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "check"


def test_the_schema_knows_every_reason_and_the_comment_names_the_default_ones() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["topUp"]["properties"]["reasons"]["items"]["enum"] == [str(each) for each in Reason]
    (comment,) = [each.description for each in documented_values(VALUES.read_text()) if each.path == "topUp.reasons"]
    assert all(reason in comment.partition("Empty:")[2] for reason in MAY_PASS)


def test_the_metrics_of_the_top_up_and_of_its_gate_are_scraped() -> None:
    objects = render(ENABLED, "metrics.enabled=true", "metrics.podMonitor.enabled=true")
    for name, component in (("embedder-worker", "topup"), ("embedder-merge", "topup-merge")):
        (expression,) = named(objects, "PodMonitor", name)["spec"]["selector"]["matchExpressions"]
        assert component in expression["values"]


@EVERY_HELM
def test_an_upgrade_adds_a_top_up_and_later_upgrades_keep_it(program: str) -> None:
    with api_server(jobs()) as url:
        assert set(rendered_jobs(upgrade(url, program, ENABLED))) == {"worker", "merge", "topup", "topup-merge"}
    with api_server(jobs(ENABLED)) as url:
        assert upgrade(url, program, ENABLED) == template("--set", ENABLED, program=program)
        assert "topup-2-merge" in upgrade(url, program, ENABLED, "topUp.attempt=2", "topUp.device=cpu")
        # What can change while a Job exists may.
        assert "parallelism: 3" in upgrade(url, program, ENABLED, "topUp.parallelism=3")


@EVERY_HELM
def test_a_top_up_with_other_pods_needs_another_number(program: str) -> None:
    with api_server(jobs(ENABLED)) as url, pytest.raises(HelmError, match=r"of Job embedder-topup-1, .*topUp\.attempt"):
        upgrade(url, program, ENABLED, "topUp.reasons={deferred}")


@EVERY_HELM
def test_a_top_up_of_the_command_is_not_taken_for_the_charts(program: str) -> None:
    (other,) = [job for job in jobs(ENABLED) if job["metadata"]["name"] == "embedder-topup-1"]
    other["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "embedder"
    with (
        api_server([*jobs(), other]) as url,
        pytest.raises(
            HelmError, match=r"Job embedder-topup-1 exists, and `embedder topup` has created it; set topUp\."
        ),
    ):
        upgrade(url, program, ENABLED)


@EVERY_HELM
@pytest.mark.parametrize("merge_is_there", [True, False])
def test_a_top_up_does_not_bring_back_a_worker_job_whose_time_was_over(program: str, merge_is_there: bool) -> None:
    live = live_without_worker(merge_ended="Complete") if merge_is_there else []
    with api_server(live) as url:
        found = rendered_jobs(upgrade(url, program, *TIMES_TO_LIVE, ENABLED))
    assert set(found) == {"merge", "topup", "topup-merge"}


def test_the_notes_say_what_the_top_up_does_or_how_to_start_one() -> None:
    assert "embedder topup --release clip -n team" in notes()
    said = notes(ENABLED)
    assert "Job clip-topup-1 fetches failed images again, and Job clip-topup-1-merge merges them" in said
    assert "waits until its ServiceAccount may get, list and watch Job\nclip-topup-1" in notes(
        ENABLED, "rbac.create=false"
    )


def test_a_section_that_is_empty_is_its_default() -> None:
    assert template("--set", "topUp=null") == template()
    assert yaml.safe_load(VALUES.read_text())["topUp"]["enabled"] is False
