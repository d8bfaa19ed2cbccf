"""`embedder logs`: the log of one chunk, from all pods that computed it."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from common.errors import NotInCluster, RunUnfinished, SettingsError
from tests.embedder.command_line import embedder
from tests.k8s.cluster_double import NAMESPACE, ClusterDouble, Fault
from tests.k8s.release_objects import (
    NOT_SCHEDULED,
    ended,
    failed,
    finished,
    index_job,
    merge_job,
    pod_of,
    running,
    worker_job,
)

if TYPE_CHECKING:
    from tests.k8s.release_objects import Object


def put_pod(cluster: ClusterDouble, pod: Object, *lines: str) -> str:
    name: str = cluster.put("pods", pod)["metadata"]["name"]
    for line in lines:
        cluster.append_log(name, "worker", line)
    return name


@pytest.fixture
def job(cluster: ClusterDouble) -> Object:
    """Chunk 7 failed twice in the worker Job, and a rerun has computed it as its second index."""
    job = worker_job(10, completed="0-6", failed="7-9", ended="Failed")
    cluster.put("jobs", job)
    put_pod(cluster, pod_of(job, 7, 0, **ended(75, failed("the store is away"))), "first 1", "first 2")
    put_pod(cluster, pod_of(job, 8, 0, **ended(65)), "of another chunk")
    put_pod(cluster, pod_of(job, 7, 1, **ended(65, failed("bad rows"))), "second")
    rerun = worker_job(
        2, name="embedder-rerun-1", component="rerun", of=10, chunks="5,7", completed="0,1", ended="Complete"
    )
    cluster.put("jobs", rerun)
    put_pod(cluster, pod_of(rerun, 1, 0, **ended(0, finished("chunk 7 is in the store"))), "third")
    put_pod(cluster, pod_of(rerun, 0, 0, **ended(0)), "of chunk 5")
    return job


@pytest.mark.usefixtures("job")
def test_all_attempts_are_shown_in_order_those_of_reruns_too() -> None:
    printed = embedder("logs", 7)
    assert printed.out == "first 1\nfirst 2\nsecond\nthird\n"
    headers = printed.err.splitlines()
    assert [line.partition(": ")[0] for line in headers] == [
        f"==> chunk 7, attempt {attempt} of 3" for attempt in (1, 2, 3)
    ]
    assert "exit code 65: bad rows" in headers[1]
    assert "pod embedder-rerun-1-1-" in headers[2]


@pytest.mark.usefixtures("job")
def test_previous_is_the_attempt_before_the_last() -> None:
    assert embedder("logs", 7, "--previous").out == "second\n"
    with pytest.raises(NotInCluster, match="only one attempt"):
        embedder("logs", 8, "--previous")


@pytest.mark.usefixtures("job")
def test_a_chunk_is_not_confused_with_the_index_of_a_rerun() -> None:
    assert embedder("logs", 5).out == "of chunk 5\n"


def test_a_chunk_without_pods_has_no_log_and_the_error_says_why(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(3, completed="0", failed="1", active=1))
    with pytest.raises(NotInCluster, match="chunk 0 is done, but its pods and their logs no longer exist"):
        embedder("logs", 0)
    with pytest.raises(NotInCluster, match="embedder rerun --chunks 1 --release embedder"):
        embedder("logs", 1)
    with pytest.raises(RunUnfinished, match="chunk 2 has no pod yet"):
        embedder("logs", 2)


def test_a_chunk_outside_the_run_is_refused(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(3))
    with pytest.raises(SettingsError, match="there is no chunk 3: the last of the run's 3 chunks is 2"):
        embedder("logs", 3)


def test_a_pod_that_cannot_be_scheduled_says_so(cluster: ClusterDouble) -> None:
    job = worker_job(1, active=1)
    cluster.put("jobs", job)
    put_pod(cluster, pod_of(job, 0, **NOT_SCHEDULED))
    assert "has not started (Unschedulable: 0/3 nodes" in embedder("logs", 0).err


def test_secrets_in_addresses_are_left_out(cluster: ClusterDouble) -> None:
    job = worker_job(1, active=1)
    cluster.put("jobs", job)
    put_pod(
        cluster, pod_of(job, 0, **running()), "GET https://key:secret@host/x?X-Amz-Signature=secret failed \x1b[31m"
    )
    shown = embedder("logs", 0).out
    assert "secret" not in shown
    assert "\x1b" not in shown


def test_following_goes_on_after_drops_and_with_the_next_attempt_until_the_chunk_is_done(
    cluster: ClusterDouble,
) -> None:
    job = worker_job(1, active=1)
    cluster.put("jobs", job)
    first = put_pod(cluster, pod_of(job, 0, 0, **running()), "first 1")

    def play() -> None:
        cluster.wait_for(lambda double: double.count("log", "pods") == 1)
        cluster.append_log(first, "worker", "first 2")
        cluster.faults = [("log", Fault(503)), ("log", Fault(0))]
        cluster.drop_streams()
        cluster.wait_for(lambda double: double.count("log", "pods") >= 4)
        cluster.append_log(first, "worker", "first 3")
        second = pod_of(job, 0, 1, **running())
        put_pod(cluster, second, "second 1")
        cluster.put("pods", pod_of(job, 0, 0, **ended(75)))
        cluster.wait_for(lambda double: double.count("log", "pods") >= 5)
        cluster.append_log(second["metadata"]["name"], "worker", "second 2")
        cluster.put("jobs", worker_job(1, completed="0", ended="Complete"))
        cluster.put("pods", pod_of(job, 0, 1, **ended(0)))

    player = threading.Thread(target=play)
    player.start()
    printed = embedder("logs", 0, "--follow")
    player.join()
    assert printed.out == "first 1\nfirst 2\nfirst 3\nsecond 1\nsecond 2\n"


def test_a_reader_that_stops_reading_is_no_error(cluster: ClusterDouble) -> None:
    job = worker_job(1, completed="0", ended="Complete")
    cluster.put("jobs", job)
    put_pod(cluster, pod_of(job, 0, **ended(0)), *["a line of a log that is longer than a pipe holds"] * 5000)
    program = subprocess.Popen(
        [sys.executable, "-c", "from embedder.cli import main; main()", "logs", "0", "-n", NAMESPACE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline()
    program.stdout.close()
    assert program.stderr is not None
    lines = program.stderr.read().splitlines()
    program.stderr.close()
    assert program.wait(30) == 1
    assert [line for line in lines if not line.startswith("==>")] == []


def test_following_and_previous_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="nothing to --follow"):
        embedder("logs", 0, "--follow", "--previous")


@pytest.mark.parametrize("is_merge_left", [True, False])
def test_following_ends_quietly_when_the_job_is_deleted_after_its_end(
    cluster: ClusterDouble, is_merge_left: bool
) -> None:
    job = worker_job(1, active=1)
    cluster.put("jobs", job)
    if is_merge_left:
        cluster.put("jobs", merge_job())
    name = put_pod(cluster, pod_of(job, 0, **running()), "line 1")

    def play() -> None:
        cluster.wait_for(lambda double: double.count("log", "pods") == 1)
        cluster.append_log(name, "worker", "line 2")
        cluster.delete("jobs", "embedder-worker")
        cluster.put("pods", pod_of(job, 0, **ended(0)))
        cluster.delete("pods", name)

    player = threading.Thread(target=play)
    player.start()
    printed = embedder("logs", 0, "--follow")
    player.join()
    assert printed.out == "line 1\nline 2\n"


def test_the_log_of_a_chunk_is_gone_with_the_worker_job(cluster: ClusterDouble) -> None:
    cluster.put("jobs", merge_job())
    with pytest.raises(NotInCluster, match="Job embedder-worker no longer exists, and the log of chunk 7 is gone"):
        embedder("logs", "7")


def put_log(cluster: ClusterDouble, job: Object, container: str, *lines: str, attempt: int = 0, **more: object) -> None:
    name = cluster.put("pods", pod_of(job, None, attempt, **more))["metadata"]["name"]
    for line in lines:
        cluster.append_log(name, container, line)


def test_the_log_of_the_merge_and_that_of_the_index_have_all_attempts(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(2, completed="0-1", ended="Complete"))
    merge, index = merge_job(ended="Complete"), index_job()
    for job in (merge, index):
        cluster.put("jobs", job)
    put_log(cluster, merge, "merger", "merging 1", **ended(0, finished("merged"), container="merger"))
    word = failed("the store is away")
    put_log(cluster, index, "indexer", "building 1", **ended(75, word, container="indexer"))
    put_log(cluster, index, "gate", "waiting 1", attempt=1, **running("gate"))
    assert embedder("logs", "--merge").out == "merging 1\n"
    printed = embedder("logs", "--index")
    assert printed.out == "building 1\nwaiting 1\n"
    first, second = printed.err.splitlines()
    assert first.startswith("==> the index, attempt 1 of 2: pod embedder-index-00000, exit code 75: the store is away")
    assert "the index, attempt 2 of 2: pod embedder-index-00001, its gate waits" in second
    assert embedder("logs", "--index", "--previous").out == "building 1\n"


def test_a_log_that_does_not_exist_is_an_error_that_says_why(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(2, completed="0-1", ended="Complete"))
    cluster.put("jobs", merge_job())
    with pytest.raises(RunUnfinished, match="the merge has no pod yet; see embedder status --release embedder"):
        embedder("logs", "--merge")
    with pytest.raises(NotInCluster, match=r"has no index Job; index\.enabled=true in an upgrade creates it"):
        embedder("logs", "--index")
    cluster.put("jobs", index_job(ended="Complete"))
    with pytest.raises(NotInCluster, match="the index has ended, but its pods and their logs no longer exist"):
        embedder("logs", "--index")
    for arguments in ((), ("7", "--index"), ("--merge", "--index")):
        with pytest.raises(SettingsError, match="name what to show: the number of a chunk, --merge or --index"):
            embedder("logs", *arguments)
