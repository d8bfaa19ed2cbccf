"""The check Job of a release, read back by the log of its pod."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import NotInCluster, RunUnfinished
from common.findings import Finding, Subject, Verdict
from k8s.api.connection import connect
from k8s.check.check_job import find_check_job, read_check_job
from k8s.release.release import Release
from tests.k8s.release_objects import NOT_SCHEDULED, ended, failed, pod_of, running, worker_job

if TYPE_CHECKING:
    from tests.k8s.cluster_double import ClusterDouble, Object

NAME = "embedder-check-12345678"
STORE = Finding(subject=Subject.STORE, verdict=Verdict.OK, message="s3://bucket/run can be written")
MODEL = Finding(subject=Subject.MODEL, verdict=Verdict.FAULT, message="there is no such folder", exit_code=78)


def check_job() -> Object:
    job = worker_job(1, name=NAME, component="check")
    del job["spec"]["completionMode"]
    return job


def put(cluster: ClusterDouble, *, lines: list[str], **status: Any) -> str:  # noqa: ANN401 - of a PodStatus
    """Put the Job and its pod with that status and log, and return the pod's name."""
    job = cluster.put("jobs", check_job())
    pod = cluster.put("pods", pod_of(job, None, **status))
    name = str(pod["metadata"]["name"])
    for line in lines:
        cluster.append_log(name, "worker", line)
    return name


def read(*, wait_seconds: float = 20) -> tuple[list[Finding], list[str]]:
    said: list[str] = []
    job = find_check_job(connect(), "embedder")
    assert job is not None
    return read_check_job(connect(), job, say=said.append, wait_seconds=wait_seconds), said


def test_the_findings_are_those_of_the_pods_log(cluster: ClusterDouble) -> None:
    lines = ["2026-11-23T12:00:00.000Z info checked subject=store", STORE.model_dump_json(), MODEL.model_dump_json()]
    put(cluster, lines=lines, **ended(78, failed("there is no such folder")))
    assert read() == ([STORE, MODEL], [])


def test_a_check_that_still_runs_is_waited_for(cluster: ClusterDouble) -> None:
    name = put(cluster, lines=[STORE.model_dump_json()], **running())

    def end() -> None:
        time.sleep(1)
        cluster.put("pods", pod_of(cluster.objects["jobs"][NAME], None, **ended(0)))

    thread = threading.Thread(target=end)
    thread.start()
    findings, said = read()
    thread.join()
    assert findings == [STORE]
    assert said == [f"pod {name} of Job {NAME} is Running"]


def test_a_pod_that_waits_for_a_node_says_why(cluster: ClusterDouble) -> None:
    put(cluster, lines=[], **NOT_SCHEDULED)
    with pytest.raises(RunUnfinished, match=r"is Pending \(Unschedulable: 0/3 nodes are available"):
        read(wait_seconds=0)


def test_a_pod_that_was_killed_is_a_fault_of_its_own(cluster: ClusterDouble) -> None:
    put(cluster, lines=[STORE.model_dump_json()], **ended(137, reason="OOMKilled"))
    (store, program), _ = read()
    assert store == STORE
    assert (program.subject, program.verdict, program.exit_code) == (Subject.PROGRAM, Verdict.FAULT, 137)
    assert "ran out of memory" in program.message


def test_a_release_without_a_check_has_none(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(4))
    assert find_check_job(connect(), "embedder") is None


def test_a_release_that_only_checks_says_so_to_the_other_commands(cluster: ClusterDouble) -> None:
    put(cluster, lines=[], **running())
    with pytest.raises(NotInCluster, match="only checks, and computes nothing"):
        Release(connect(), "embedder")
