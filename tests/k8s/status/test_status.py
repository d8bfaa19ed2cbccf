"""`embedder status`, with a double of the cluster's API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import ClusterUnavailable
from common.process.last_word import LastWord
from common.run.keys import chunk_key
from common.store import open_store
from tests.embedder.command_line import embedder
from tests.k8s.cluster_double import NAMESPACE, ClusterDouble, Fault, Request
from tests.k8s.release_objects import (
    NOT_SCHEDULED,
    ended,
    failed,
    finished,
    merge_job,
    pod_of,
    running,
    waiting,
    worker_job,
)
from tests.k8s.status.reading import EMBEDDED, put_mixed_run, status, stored

if TYPE_CHECKING:
    from pathlib import Path

    from tests.k8s.release_objects import Object


def test_the_chunks_are_sorted_by_state(cluster: ClusterDouble) -> None:
    put_mixed_run(cluster)
    chunks = status()["chunks"]
    assert chunks.pop("count") == 10
    assert {state: found["indexes"] for state, found in chunks.items()} == {
        "done": "0-3",
        "running": "4,5",
        "waiting": "6,9",
        "failed": "7,8",
    }


def test_images_and_the_time_left_come_from_the_last_words_and_the_last_lines(cluster: ClusterDouble) -> None:
    put_mixed_run(cluster)
    assert status()["images"] == {
        "settled": 5000,
        "failed": 44,
        "deferred": 0,
        "total": 10_000,
        "is_estimate": True,
        "rate_per_s": 250.0,
        "eta_seconds": 12.0,  # 500 + 500 of the running, 1000 + 1000 of those that wait
        "waiting_on": "fetch",
    }


def test_failures_have_their_reasons_and_the_commands_that_help(cluster: ClusterDouble) -> None:
    put_mixed_run(cluster)
    found = status()
    assert [(group["chunks"], group["reason"]) for group in found["failures"]] == [
        ("7", "exit code 65: 400 of 1000 images failed"),
        ("8", "ran out of memory (OOMKilled, exit code 137)"),
    ]
    flags = f"--release embedder -n {NAMESPACE}"
    assert found["next"][:2] == [f"embedder logs 7 {flags}", f"embedder rerun {flags} --memory 12Gi"]
    assert found["retries"] == 1


def test_it_says_why_pods_are_pending_and_what_the_merge_waits_for(cluster: ClusterDouble) -> None:
    put_mixed_run(cluster)
    found = status()
    assert found["pending"][0]["reason"] == "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    assert found["merge"] == "waits: Job embedder-worker is running"


def test_the_screen_shows_the_run_to_people(cluster: ClusterDouble) -> None:
    put_mixed_run(cluster)
    screen = embedder("status").out
    for words in (
        "40 % of 10",
        "2 waiting",
        "6,9",
        "about 5,000 of about 10,000 · 250/s · 12s left · 44 failed · waiting on fetch",
        "1 pod: Unschedulable",
        "chunk 8: ran out of memory",
        "waits: Job embedder-worker is running",
        f"  embedder rerun --release embedder -n {NAMESPACE} --memory 12Gi\n",
    ):
        assert words in screen


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError"])
def test_containers_that_cannot_start_say_why(cluster: ClusterDouble, reason: str) -> None:
    job = worker_job(2, active=2)
    cluster.put("jobs", job)
    for index in range(2):
        cluster.put("pods", pod_of(job, index, **waiting(reason, "no such image")))
    (group,) = status()["pending"]
    assert (group["count"], group["reason"]) == (2, f"{reason}: no such image")


def test_pods_of_a_node_that_is_down_are_shown_and_their_logs_are_not_read(cluster: ClusterDouble) -> None:
    job = worker_job(2, active=2)
    cluster.put("jobs", job)
    not_ready = {"type": "Ready", "status": "False", "reason": "NodeNotReady"}
    pods = [pod_of(job, 0, **running() | {"conditions": [not_ready]}), pod_of(job, 1, **running())]
    pods[1]["metadata"]["deletionTimestamp"] = "2026-11-23T12:30:00Z"
    for pod in pods:
        pod["spec"]["nodeName"] = "node-3"
        cluster.put("pods", pod)
    assert {group["reason"] for group in status()["pending"]} == {
        "NodeNotReady: its node node-3 does not answer",
        "Terminating: it is replaced when its node node-3 reports that it has ended",
    }
    assert cluster.count("log", "pods") == 0


def test_a_rerun_that_ran_out_of_memory_is_given_more_than_it_had(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(10, completed="0-8", failed="9", ended="Failed"))
    embedder("rerun", "--memory", "12Gi")
    rerun = cluster.objects["jobs"]["embedder-rerun-1"]
    rerun["status"] = {
        "failedIndexes": "0",
        "conditions": [{"type": "Failed", "status": "True", "reason": "FailedIndexes"}],
    }
    cluster.put("pods", pod_of(rerun, 0, **ended(137, reason="OOMKilled")))
    assert status()["next"][1].endswith("--memory 24Gi")


def test_a_container_that_is_being_created_is_no_trouble(cluster: ClusterDouble) -> None:
    job = worker_job(1, active=1)
    cluster.put("jobs", job)
    cluster.put("pods", pod_of(job, 0, **waiting("ContainerCreating", "")))
    assert status()["pending"] == []


def put_refusal(cluster: ClusterDouble, message: str, *, last: str) -> None:
    event = {
        "metadata": {"name": f"event-{last}"},
        "involvedObject": {"kind": "Job", "name": "embedder-worker"},
        "reason": "FailedCreate",
        "type": "Warning",
        "message": message,
        "lastTimestamp": last,
    }
    cluster.put("events", event)


def test_a_quota_that_refuses_pods_is_shown_by_its_last_event(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(3, active=1))
    put_refusal(cluster, "exceeded quota: old", last="2026-11-23T12:00:00Z")
    put_refusal(cluster, "exceeded quota: gpus, used: 1, limited: 1", last="2026-11-23T12:05:00Z")
    (group,) = status()["pending"]
    assert group["reason"] == "FailedCreate: exceeded quota: gpus, used: 1, limited: 1"
    assert group["count"] == 2


def test_events_that_may_not_be_read_are_a_note(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(3))
    cluster.is_allowed = lambda request: request.resource != "events"
    found = status()
    assert "not allowed to list events" in found["notes"][0]
    assert found["chunks"]["waiting"]["indexes"] == "0-2"


def test_a_suspended_job_says_so(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(3, suspended=True))
    assert "is suspended" in status()["pending"][0]["reason"]


def test_a_rerun_counts_for_its_chunks(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(10, completed="0-2,4-6", failed="3,7-9", ended="Failed"))
    rerun = worker_job(
        3, name="embedder-rerun-1", component="rerun", of=10, chunks="3,7,8", completed="0", failed="2", active=1
    )
    cluster.put("jobs", rerun)
    cluster.put("pods", pod_of(rerun, 1, **running()))
    cluster.put("pods", pod_of(rerun, 2, **ended(1)))
    found = status()
    states = {state: each["indexes"] for state, each in found["chunks"].items() if state != "count"}
    assert states == {"done": "0-6", "running": "7", "waiting": "", "failed": "8,9"}
    reasons = {group["chunks"]: group["reason"] for group in found["failures"]}
    assert reasons["8"] == "ended with exit code 1 and without a last word"
    assert reasons["9"].startswith("given up (FailedIndexes")


def test_a_rerun_of_an_earlier_run_counts_for_nothing(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(10, failed="3", active=9))
    of_other_count = worker_job(1, name="embedder-rerun-1", component="rerun", of=20, chunks="3", completed="0")
    of_other_run = worker_job(
        1, name="embedder-rerun-2", component="rerun", of=10, chunks="3", completed="0", run_uri="s3://other/run"
    )
    cluster.put("jobs", of_other_count)
    cluster.put("jobs", of_other_run)
    assert status()["chunks"]["done"]["count"] == 0


def test_a_failed_job_leaves_chunks_that_were_never_computed(cluster: ClusterDouble) -> None:
    message = "Container worker for pod photos/x failed with exit code 78 matching FailJob rule at index 1"
    job = worker_job(5, completed="0", failed="", ended="Failed", reason="PodFailurePolicy", message=message)
    cluster.put("jobs", job)
    cluster.put("pods", pod_of(job, 1, **ended(78, failed("EMBEDDER_MODEL is no model"))))
    found = status()
    reasons = {group["chunks"]: group["reason"] for group in found["failures"]}
    assert reasons["1"] == "exit code 78: EMBEDDER_MODEL is no model"
    assert reasons["2-4"] == f"not computed: Job embedder-worker ended (PodFailurePolicy: {message})"
    assert found["next"][1].endswith("--set-env NAME=VALUE")


def test_evictions_and_preemptions_are_named(cluster: ClusterDouble) -> None:
    job = worker_job(2, failed="0,1", ended="Failed")
    cluster.put("jobs", job)
    cluster.put(
        "pods", pod_of(job, 0, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    )
    stopped = LastWord(event="stopped", message="stopped by SIGTERM")
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    cluster.put("pods", pod_of(job, 1, **ended(143, stopped, conditions=[condition])))
    reasons = [group["reason"] for group in status()["failures"]]
    assert reasons == [
        "Evicted: The node was low on resource: memory.",
        "PreemptionByScheduler, exit code 143: stopped by SIGTERM",
    ]


def test_a_container_that_could_not_start_is_named(cluster: ClusterDouble) -> None:
    job = worker_job(1, failed="0", ended="Failed")
    cluster.put("jobs", job)
    cluster.put("pods", pod_of(job, 0, **ended(128, "exec: python: no such file", reason="StartError")))
    assert status()["failures"][0]["reason"] == "StartError, exit code 128: exec: python: no such file"


def test_an_init_container_of_the_platform_that_fails_is_named(cluster: ClusterDouble) -> None:
    job = worker_job(1, failed="0", ended="Failed")
    cluster.put("jobs", job)
    fetch = {"name": "fetch", "state": {"terminated": {"exitCode": 3, "reason": "Error", "message": "no\nweights"}}}
    worker = {"name": "worker", "state": {"waiting": {"reason": "PodInitializing"}}}
    cluster.put("pods", pod_of(job, 0, phase="Failed", initContainerStatuses=[fetch], containerStatuses=[worker]))
    assert status()["failures"][0]["reason"] == "container fetch ended with exit code 3: no weights"


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_sidecar_that_cannot_start_holds_up_only_a_pod_that_has_not_begun(
    cluster: ClusterDouble, has_begun: bool
) -> None:
    job = worker_job(1, active=1)
    cluster.put("jobs", job)
    sidecar = {"name": "proxy", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    worker = {"name": "worker", "state": {"running": {}} if has_begun else {"waiting": {"reason": "PodInitializing"}}}
    phase = "Running" if has_begun else "Pending"
    cluster.put("pods", pod_of(job, 0, phase=phase, initContainerStatuses=[sidecar], containerStatuses=[worker]))
    found = status()
    assert [group["reason"] for group in found["pending"]] == ([] if has_begun else ["ImagePullBackOff: no such image"])
    assert found["chunks"]["running" if has_begun else "waiting"]["count"] == 1


def test_a_last_word_that_a_kubelet_took_from_a_log_tells_no_secret_and_steers_no_terminal(
    cluster: ClusterDouble,
) -> None:
    job = worker_job(1, failed="0", ended="Failed")
    cluster.put("jobs", job)
    said = "\x1b[2Jfailed at https://user:hunter1@example.com/x?sig=hunter2"
    cluster.put("pods", pod_of(job, 0, **ended(1, said)))
    shown = "".join(embedder("status")) + json.dumps(status(), ensure_ascii=False)
    assert "https://***@example.com/x?sig=***" in shown
    assert "hunter" not in shown
    assert "\x1b" not in shown


def test_a_pod_without_a_last_word_is_described_by_its_last_log_line(cluster: ClusterDouble) -> None:
    job = worker_job(1, failed="0", ended="Failed")
    cluster.put("jobs", job)
    pod = cluster.put("pods", pod_of(job, 0, **ended(139)))["metadata"]["name"]
    cluster.append_log(pod, "worker", "Fatal error at https://user:secret@example.com/x?token=abc")
    (group,) = status()["failures"]
    assert "killed by SIGSEGV" in group["reason"]
    assert "its last line: Fatal error at https://***@example.com/x?token=***" in group["reason"]


def test_a_large_run_costs_few_requests(cluster: ClusterDouble) -> None:
    job = worker_job(900, completed="0-699", active=200)
    cluster.put("jobs", job)
    for index in range(700):
        cluster.put("pods", pod_of(job, index, **ended(0, stored(index, of=1000, failed=0))))
    for index in range(700, 900):
        pod = cluster.put("pods", pod_of(job, index, **running()))["metadata"]["name"]
        cluster.append_log(pod, "worker", EMBEDDED.format(index, 100, 10, "encode"))
    found = status()
    assert found["images"]["rate_per_s"] == 2000  # of 200 pods; 50 logs were read
    assert found["images"]["settled"] == 700 * 1000 + 200 * 100
    assert (cluster.count("list", "pods"), cluster.count("log", "pods")) == (2, 50)
    assert len(cluster.requests) < 60


def test_a_list_continues_when_its_pages_expire(cluster: ClusterDouble) -> None:
    cluster.page_limit = 3
    cluster.expire_pages()
    put_mixed_run(cluster)
    assert status()["chunks"]["done"]["indexes"] == "0-3"


@pytest.mark.parametrize("fault", [Fault(429, {"Retry-After": "1"}), Fault(503), Fault(0)])
def test_a_fault_that_passes_is_not_noticed(cluster: ClusterDouble, fault: Fault) -> None:
    put_mixed_run(cluster)
    cluster.faults = [("list", fault)]
    assert status()["chunks"]["count"] == 10
    assert not cluster.faults


def test_the_store_knows_chunks_whose_jobs_are_gone(cluster: ClusterDouble, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    store.put_bytes(chunk_key(1), b"a chunk")
    cluster.put("jobs", worker_job(3, completed="0", failed="1,2", ended="Failed", run_uri=store.uri))
    assert status()["chunks"]["failed"]["indexes"] == "1,2"
    assert status("--store")["chunks"]["failed"]["indexes"] == "2"


def test_secrets_in_the_runs_address_are_not_shown(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(1, run_uri="s3://key:secret@bucket/run"))
    assert "secret" not in "".join(embedder("status")) + json.dumps(status())


def test_watching_ends_with_the_merge(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(2, completed="0,1", ended="Complete"))
    cluster.put("jobs", merge_job(ended="Complete"))
    found = json.loads(embedder("status", "--watch", "--output", "json").out)
    assert found["is_finished"]
    assert found["next"] == ["aws s3 cp s3://my-bucket/embedded/Images_Embedded.h5 ."]


def test_chunks_that_failed_alike_are_one_group(cluster: ClusterDouble) -> None:
    job = worker_job(5, failed="0-4", ended="Failed")
    cluster.put("jobs", job)
    message = "more than 10% of the images failed"
    cluster.put("pods", pod_of(job, 0, **ended(65, failed(message, images=30, of=1000, failed=20))))
    cluster.put("pods", pod_of(job, 1, **ended(65, failed(message, images=90, of=999, failed=70))))
    cluster.put("pods", pod_of(job, 2, **ended(75, failed(message))))
    cluster.put("pods", pod_of(job, 3, **ended(65, failed("another message"))))
    cluster.put("pods", pod_of(job, 4, **ended(65, failed(message), reason="StartError")))
    assert [(group["chunks"], group["count"], group["reason"]) for group in status()["failures"]] == [
        ("0,1", 2, f"exit code 65: {message}"),
        ("2", 1, f"exit code 75: {message}"),
        ("3", 1, "exit code 65: another message"),
        ("4", 1, f"StartError, exit code 65: {message}"),
    ]


def test_chunks_with_the_same_error_are_one_group_though_their_messages_differ(cluster: ClusterDouble) -> None:
    job = worker_job(3, failed="0-2", ended="Failed")
    cluster.put("jobs", job)
    for chunk in range(2):
        word = LastWord(event="failed", message=f"{chunk + 20} of 100 images failed", error="TooManyFailures")
        cluster.put("pods", pod_of(job, chunk, **ended(65, word)))
    other = LastWord(event="failed", message="22 of 100 images failed", error="ChunkInvalid")
    cluster.put("pods", pod_of(job, 2, **ended(65, other)))
    assert [(group["chunks"], group["reason"]) for group in status()["failures"]] == [
        ("0,1", "exit code 65: 20 of 100 images failed"),
        ("2", "exit code 65: 22 of 100 images failed"),
    ]


def lost(chunk: int, **reasons: int) -> LastWord:
    """Return the last word of a worker whose images failed, and that has listed them."""
    number = sum(reasons.values())
    message = f"{number} of 100 images failed so far: see s3://b/chunks/failures_{chunk}.csv"
    return LastWord(event="failed", message=message, error="TooManyFailures", counts={"listed": number, **reasons})


def test_failed_chunks_are_shown_with_the_reasons_of_their_images_and_where_these_are_listed(
    cluster: ClusterDouble,
) -> None:
    job = worker_job(12, failed="0-11", ended="Failed")
    cluster.put("jobs", job)
    cluster.put("pods", pod_of(job, 0, **ended(65, lost(0, not_found=20, timeout=30))))
    for chunk in range(1, 11):
        cluster.put("pods", pod_of(job, chunk, **ended(65, lost(chunk, not_found=1000 + chunk))))
    unlisted = LastWord(event="failed", message="gone", error="TooManyFailures", counts={"not_found": 7, "new_one": 1})
    cluster.put("pods", pod_of(job, 11, **ended(65, unlisted)))
    slow, gone = status()["failures"]
    file = "s3://my-bucket/embedded/chunks/failures_{}.csv"
    assert slow["chunks"] == "0"
    assert slow["images"] == [{"chunk": 0, "reasons": {"timeout": 30, "not_found": 20}, "file": file.format(0)}]
    assert gone["chunks"] == "1-11"
    assert gone["images"][0] == {"chunk": 1, "reasons": {"not_found": 1001}, "file": file.format(1)}
    assert gone["images"][-1] == {"chunk": 11, "reasons": {"not_found": 7, "new_one": 1}, "file": ""}
    assert status()["next"][:3] == [
        "embedder logs 0 --release embedder -n photos",
        f"aws s3 cp {file.format(0)} .",
        "embedder rerun --release embedder -n photos --set-env NAME=VALUE",
    ]

    shown = embedder("status").out
    assert "chunk 0: exit code 65: 50 of 100 images failed so far: see s3://b/chunks/failures_0.csv" in shown
    assert "chunks 1-11: exit code 65: 1001 of 100 images failed so far" in shown
    for chunk in range(1, 7):
        assert f"chunk {chunk}: not_found {1000 + chunk:,}, listed in {file.format(chunk)}" in shown
    assert "chunk 7: " not in shown
    assert "and 5 more chunks; see --output json" in shown


def test_a_chunk_that_was_computed_by_a_rerun_does_not_show_its_earlier_failures(cluster: ClusterDouble) -> None:
    job = worker_job(1, completed="0", ended="Complete")
    cluster.put("jobs", job)
    cluster.put("pods", pod_of(job, 0, **ended(65, lost(0, not_found=20))))
    cluster.put("pods", pod_of(job, 0, 1, **ended(0, stored(0, of=100, failed=4))))
    found = status()
    assert found["failures"] == []
    assert found["images"]["failed"] == 4


def test_a_last_word_without_counts_says_nothing_about_images(cluster: ClusterDouble) -> None:
    job = worker_job(3, completed="0-2", ended="Complete")
    cluster.put("jobs", job)
    for chunk in range(2):
        cluster.put("pods", pod_of(job, chunk, **ended(0, finished("this run is finished: 7 images of 8, 1 failed"))))
    assert status()["images"]["settled"] is None
    cluster.put("pods", pod_of(job, 2, **ended(0, stored(2, of=100, failed=4))))
    images = status()["images"]
    assert (images["settled"], images["failed"], images["total"], images["is_estimate"]) == (300, 4, 300, True)


def put_merge(cluster: ClusterDouble, *, ended_as: str = "", **pod_status: Any) -> str:  # noqa: ANN401 - of a PodStatus
    """Put a worker Job that is complete, the merge Job and its pod; return the pod's name."""
    cluster.put("jobs", worker_job(1, completed="0", ended="Complete"))
    job = merge_job(ended=ended_as)
    cluster.put("jobs", job)
    name: str = cluster.put("pods", pod_of(job, None, **pod_status))["metadata"]["name"]
    return name


@pytest.mark.parametrize(
    ("ended_as", "pod", "words"),
    [
        ("", running("merger"), "merges"),
        ("", NOT_SCHEDULED, "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
        ("", {"phase": "Pending"}, "starts"),
        ("Complete", ended(0, finished("12 images"), container="merger"), "finished: 12 images"),
        ("Complete", ended(0, container="merger"), "finished"),
        (
            "Failed",
            ended(65, failed("chunk 3 is damaged"), container="merger"),
            "failed (exit code 65: chunk 3 is damaged)",
        ),
    ],
)
def test_the_merge_has_words_for_each_state(cluster: ClusterDouble, ended_as: str, pod: Object, words: str) -> None:
    put_merge(cluster, ended_as=ended_as, **pod)
    assert status()["merge"] == words


def test_a_merge_that_runs_is_described_by_its_last_line(cluster: ClusterDouble) -> None:
    name = put_merge(cluster, **running("merger"))
    cluster.append_log(name, "merger", "2026-11-23T12:00:00.000Z info merging chunks=3 of=4")
    assert status()["merge"] == "merges: merging chunks=3 of=4"


def test_the_status_says_when_there_is_no_merge_job_or_no_pod_of_it(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(1))
    assert status()["merge"] == "there is no merge Job"
    cluster.put("jobs", merge_job())
    assert status()["merge"] == "has no pod"


def test_a_job_that_was_changed_by_hand_is_not_guessed_at(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(3, completed="0-99"))
    with pytest.raises(ClusterUnavailable, match="Job embedder-worker cannot be read"):
        status()


REJECTED = "Pod was rejected: Allocate failed due to no healthy devices present; cannot allocate unhealthy devices"


def rejected(job: Object, chunk: int, attempt: int, node: str, reason: str = "UnexpectedAdmissionError") -> Object:
    """Return a pod that a kubelet has refused: it has a reason and a message, and no status of a container."""
    pod = pod_of(job, chunk, attempt, phase="Failed", reason=reason, message=f"{REJECTED} {attempt}")
    pod["spec"] = pod["spec"] | {"nodeName": node}
    return pod


def test_a_node_that_rejects_pods_is_named_with_its_reason_and_the_remedy(cluster: ClusterDouble) -> None:
    job = worker_job(6, failed="0-2", active=3)
    cluster.put("jobs", job)
    for chunk in range(2):
        for attempt in range(4):
            cluster.put("pods", rejected(job, chunk, attempt, "gpu-7"))
    for attempt in range(4):
        cluster.put("pods", rejected(job, 2, attempt, "gpu-8" if attempt == 3 else "gpu-7"))
    cluster.put("pods", rejected(job, 3, 0, "gpu-9", reason="NodeShutdown"))
    cluster.put("pods", rejected(job, 4, 0, "gpu-9", reason="NodeShutdown"))
    found = status()
    assert [(each["node"], each["count"]) for each in found["nodes"]] == [("gpu-7", 11), ("gpu-9", 2), ("gpu-8", 1)]
    assert found["nodes"][0]["reason"].startswith("gpu-7 has rejected 11 pods (UnexpectedAdmissionError: Pod was rejec")
    assert [(group["chunks"], group["reason"].partition(":")[0]) for group in found["failures"]] == [
        ("0,1", "rejected by node gpu-7 (UnexpectedAdmissionError"),
        ("2", "rejected by node gpu-8 (UnexpectedAdmissionError"),
    ]
    assert [command for command in found["next"] if "cordon" in command] == ["kubectl cordon gpu-7"]
    screen = embedder("status").out
    assert "gpu-7 has rejected 11 pods" in screen
    assert "  kubectl cordon gpu-7\n" in screen


def test_an_evicted_pod_and_one_that_has_begun_are_not_rejected(cluster: ClusterDouble) -> None:
    job = worker_job(3, failed="0-2", ended="Failed")
    cluster.put("jobs", job)
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    pods = [
        pod_of(job, 0, phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        pod_of(job, 1, phase="Failed", reason="NodeShutdown", conditions=[condition]),
        pod_of(job, 2, **ended(137, reason="OOMKilled") | {"reason": "OutOfmemory"}),
    ]
    for pod in pods:
        pod["spec"] = pod["spec"] | {"nodeName": "gpu-7"}
        cluster.put("pods", pod)
    assert status()["nodes"] == []


def test_a_release_whose_worker_job_was_deleted_shows_its_merge(cluster: ClusterDouble) -> None:
    merge = merge_job()
    cluster.put("jobs", merge)
    cluster.put("pods", pod_of(merge, None, **running("merger")))
    cluster.put("jobs", worker_job(2, name="embedder-rerun-1", component="rerun", of=900, chunks="3,7", completed="0"))
    found = status()
    counts = {state: each["count"] for state, each in found["chunks"].items() if state != "count"}
    assert counts == {"done": 1, "running": 0, "failed": 0, "waiting": 1, "unknown": 898}
    assert found["merge"] == "merges"
    assert not found["has_ended"]
    assert found["notes"] == [
        "Job embedder-worker no longer exists, by ttlSecondsAfterFinished or by hand; --store shows its chunks"
    ]
    assert f"embedder status --release embedder -n {NAMESPACE} --store" in found["next"]
    assert "898 unknown" in embedder("status").out


def test_a_complete_merge_says_that_the_chunks_of_a_deleted_job_are_done(cluster: ClusterDouble) -> None:
    cluster.put("jobs", merge_job(ended="Complete"))
    found = status()
    assert (found["chunks"]["done"]["count"], found["is_finished"]) == (900, True)
    assert found["next"] == ["aws s3 cp s3://my-bucket/embedded/Images_Embedded.h5 ."]


def test_the_store_knows_the_chunks_of_a_deleted_job(cluster: ClusterDouble, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    store.put_bytes(chunk_key(1), b"a chunk")
    merge = merge_job()
    variables = {each["name"]: each for each in merge["spec"]["template"]["spec"]["containers"][0]["env"]}
    variables["EMBEDDER_RUN_URI"]["value"], variables["EMBEDDER_CHUNK_COUNT"]["value"] = store.uri, "3"
    cluster.put("jobs", merge)
    chunks = status("--store")["chunks"]
    assert (chunks["done"]["indexes"], chunks["unknown"]["indexes"]) == ("1", "0,2")


def test_watching_goes_on_while_the_worker_job_is_deleted(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(900, completed="0-899", ended="Complete"))
    cluster.put("jobs", merge_job())

    def delete_and_end(request: Request) -> bool:
        if cluster.count("list", "pods") == 1 and "embedder-worker" in cluster.objects["jobs"]:
            cluster.delete("jobs", "embedder-worker")
            cluster.put("jobs", merge_job(ended="Complete"))
        return bool(request)

    cluster.is_allowed = delete_and_end
    *_, last = embedder("status", "--watch", "--output", "json").out.splitlines()
    assert json.loads(last)["is_finished"]
