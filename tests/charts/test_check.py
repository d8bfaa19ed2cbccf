"""check.enabled: a Job that only checks, in the worker's own pod and in place of the run."""

from __future__ import annotations

import pytest

from tests.charts.api_double import api_server
from tests.charts.helm import HelmError, helms, render, template
from tests.charts.objects import Object, named, of_kind, pod_spec
from tests.charts.test_upgrade import jobs, upgrade

EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])


def check_job(*assignments: str) -> Object:
    (job,) = of_kind(render("check.enabled=true", *assignments), "Job")
    return job


def test_a_release_that_checks_has_no_other_job() -> None:
    job = check_job("rerun.chunks=7")
    assert job["metadata"]["name"].startswith("embedder-check-")
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "check"
    assert "completionMode" not in job["spec"]


def test_the_pod_is_the_workers_with_another_program() -> None:
    assignments = ("worker.extraEnv[0].name=A", "worker.extraEnv[0].value=b", "s3.existingSecret=store")
    worker = pod_spec(named(render(*assignments), "Job", "embedder-worker"))
    check = pod_spec(check_job(*assignments))
    assert check["containers"][0].pop("command") == ["python", "-m", "worker.check"]
    assert worker["containers"][0].pop("command") == ["python", "-m", "worker"]
    assert check == worker


def test_a_check_is_made_once_and_ends() -> None:
    spec = check_job()["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (0, 3600)


def test_other_values_and_other_attempts_make_another_job() -> None:
    names = {
        check_job(*assignments)["metadata"]["name"]
        for assignments in ((), ("check.attempt=2",), ("run.uri=s3://other/run",), ("worker.parallelism=50",))
    }
    assert len(names) == 3, "parallelism is no part of the pod"


def test_the_network_policy_of_the_workers_holds_for_the_check() -> None:
    (policy,) = of_kind(render("check.enabled=true", "networkPolicy.enabled=true"), "NetworkPolicy")
    (component,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert "check" in component["values"]


@EVERY_HELM
def test_a_check_does_not_replace_a_run_that_is_installed(program: str) -> None:
    with api_server(jobs()) as url, pytest.raises(HelmError, match=r"Job embedder-worker exists.*check\.enabled=false"):
        upgrade(url, program, "check.enabled=true")


@EVERY_HELM
def test_the_run_follows_the_check_and_a_check_the_check(program: str) -> None:
    with api_server([]) as url:
        assert "embedder-worker" in upgrade(url, program)
        assert "name: embedder-check-" in upgrade(url, program, "check.enabled=true", "worker.batchSize=8")


def test_a_section_that_is_empty_is_its_default() -> None:
    assert template("--set", "check=null") == template()
