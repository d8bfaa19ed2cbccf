"""The Jobs and the other objects that the chart renders."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import ExitCode
from common.exit_policy import UNCOUNTED_FAILURES_VARIABLE
from k8s.topup.job import TOP_UPS
from tests.charts.helm import render, template, value_sets
from tests.charts.objects import (
    containers,
    environment,
    named,
    of_kind,
)

if TYPE_CHECKING:
    from pathlib import Path

EVERY_SET = pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)


def test_an_install_creates_two_jobs_and_only_the_objects_that_they_need() -> None:
    objects = render("kueue.queueName=")
    assert sorted((each["kind"], each["metadata"]["name"]) for each in objects) == [
        ("Job", "embedder-merge"),
        ("Job", "embedder-worker"),
        ("Pod", "embedder-test"),
        ("Role", "embedder-merge"),
        ("RoleBinding", "embedder-merge"),
        ("ServiceAccount", "embedder-merge"),
        ("ServiceAccount", "embedder-worker"),
    ]


@EVERY_SET
def test_the_only_hook_is_the_test(values: Path) -> None:
    hooks = {
        each["metadata"]["name"]: each["metadata"]["annotations"]["helm.sh/hook"]
        for each in render(files=(values,))
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    }
    assert hooks == ({} if values.stem == "argo-cd" else {"embedder-test": "test"})


@EVERY_SET
def test_every_object_carries_the_standard_labels(values: Path) -> None:
    for each in render(files=(values,)):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "embedder"
        assert labels["app.kubernetes.io/instance"] == labels["embedder-release"] == "embedder"
        known = {"worker", "merge", "rerun", "topup", "topup-merge", "index", "topup-index", "check", "s3", "metrics"}
        assert labels["app.kubernetes.io/component"] in known | {"test"}
        assert {"app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"} <= labels.keys()


@EVERY_SET
def test_every_template_holds_one_object_and_is_named_after_its_component_and_kind(values: Path) -> None:
    sources = re.findall(r"^# Source: embedder/templates/(.+)$", template(files=(values,)), re.MULTILINE)
    found = {
        f"{each['metadata']['labels']['app.kubernetes.io/component']}-{each['kind'].lower()}.yaml"
        for each in render(files=(values,))
    }
    assert {source.removeprefix("tests/") for source in sources} == found
    assert len(sources) == len(found)


@EVERY_SET
def test_a_pod_template_carries_the_selector_labels_and_no_label_that_changes_with_the_chart(values: Path) -> None:
    for job in of_kind(render(files=(values,)), "Job"):
        labels = job["spec"]["template"]["metadata"]["labels"]
        for name in (*(f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")), "embedder-release"):
            assert labels[name] == job["metadata"]["labels"][name]
        assert not {"app.kubernetes.io/version", "helm.sh/chart"} & labels.keys()


def test_the_worker_job_has_a_pod_for_each_chunk() -> None:
    spec = named(render("chunks.count=12", "worker.parallelism=5"), "Job", "embedder-worker")["spec"]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"]) == (12, 5)
    assert spec["backoffLimitPerIndex"] == 3
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert not {"maxFailedIndexes", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "suspend"} & spec.keys()


def test_a_limit_of_zero_is_rendered() -> None:
    spec = named(
        render(
            "worker.maxFailedIndexes=0",
            "worker.ttlSecondsAfterFinished=0",
            "worker.backoffLimitPerIndex=0",
            "worker.parallelism=0",
        ),
        "Job",
        "embedder-worker",
    )["spec"]
    for field in ("maxFailedIndexes", "ttlSecondsAfterFinished", "backoffLimitPerIndex", "parallelism"):
        assert spec[field] == 0, field


def exit_code_rules(job: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """Return each rule's action and exit codes, in order; a rule about a pod condition has no exit codes."""
    rules = job["spec"]["podFailurePolicy"]["rules"]
    return [(rule["action"], rule.get("onExitCodes", {}).get("values", [])) for rule in rules]


def test_the_pod_failure_policy_matches_the_exit_codes_of_the_programs() -> None:
    objects = render("rerun.chunks=3", "topUp.enabled=true", "index.enabled=true")
    # A sidecar's exit code does not mean what ours do, so each rule names a container.
    gated = {"merge": {"gate", "merger"}, "index": {"gate", "indexer"}}
    gated |= {f"topup-{kind}": names for kind, names in gated.items()}
    ours = {kind: {"worker"} for kind in ("worker", "rerun", "topup")} | gated
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    for job in of_kind(objects, "Job"):
        # This rule comes first, since a pod that the cluster removes may end with any exit code.
        rules = job["spec"]["podFailurePolicy"]["rules"]
        assert rules[0] == disrupted
        component = job["metadata"]["labels"]["app.kubernetes.io/component"]
        assert {rule["onExitCodes"]["containerName"] for rule in rules[1:]} == ours[component]
        if component in gated:
            codes = [ExitCode.DATA_ERROR, ExitCode.CONFIG_ERROR]
            assert exit_code_rules(job)[1:] == [("FailJob", codes), ("FailJob", codes)]
        else:
            assert exit_code_rules(job)[1:] == [
                ("Ignore", [ExitCode.STOPPED]),
                ("FailJob", [ExitCode.CONFIG_ERROR]),
                ("FailIndex", [ExitCode.DATA_ERROR]),
            ]


def test_the_worker_is_told_how_many_pods_of_its_index_were_not_counted() -> None:
    for job in of_kind(render("rerun.chunks=3", "topUp.enabled=true"), "Job"):
        if "merge" in job["metadata"]["labels"]["app.kubernetes.io/component"]:
            continue
        (variable,) = [
            each
            for each in job["spec"]["template"]["spec"]["containers"][0]["env"]
            if each["name"] == UNCOUNTED_FAILURES_VARIABLE
        ]
        path = "metadata.annotations['batch.kubernetes.io/job-index-ignored-failure-count']"
        assert variable["valueFrom"]["fieldRef"]["fieldPath"] == path


def test_the_role_allows_reading_the_worker_job_and_top_ups_only() -> None:
    objects = render()
    assert named(objects, "Role", "embedder-merge")["rules"] == [
        {
            "apiGroups": ["batch"],
            "resources": ["jobs"],
            "resourceNames": ["embedder-worker", *(f"embedder-topup-{number}" for number in range(1, TOP_UPS + 1))],
            "verbs": ["get", "list", "watch"],
        }
    ]
    binding = named(objects, "RoleBinding", "embedder-merge")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "embedder-merge", "namespace": "default"}]


@pytest.mark.parametrize(("choice", "missing"), [("wait", None), ("fail", None), ("partial", "partial")])
def test_the_gate_and_the_merger_agree_on_missing_chunks(choice: str, missing: str | None) -> None:
    gate, merger = containers(named(render(f"merge.onFailedChunks={choice}"), "Job", "embedder-merge"))
    assert environment(gate)["EMBEDDER_ON_FAILED_CHUNKS"] == choice
    assert environment(merger).get("EMBEDDER_ON_MISSING_CHUNKS") == missing


def test_the_test_pod_asks_the_gate_for_a_report() -> None:
    pod = named(render(), "Pod", "embedder-test")
    assert [each["command"] for each in containers(pod)] == [["python", "-m", "k8s.gate", "report"]]


def test_the_jobs_name_their_kueue_queue_and_the_chart_does_not_suspend_them() -> None:
    every = ("rerun.chunks=1", "topUp.enabled=true", "index.enabled=true")
    jobs = of_kind(render("kueue.queueName=batch", *every), "Job")
    assert [job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for job in jobs] == ["batch"] * 7
    assert all("suspend" not in job["spec"] for job in jobs)
