"""`embedder status` and `rerun` for a run of 100,000 chunks: the work grows with the run, not with its square."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from common.indexes import format_indexes, parse_indexes
from common.run.keys import chunk_key
from common.store import open_store
from k8s.derived_job import CHUNKS_ANNOTATION
from k8s.release.job import environment_of, job_from
from k8s.release.release import READ_FAILED_PODS, READ_SUCCEEDED_PODS
from tests.embedder.command_line import embedder
from tests.k8s.cluster_double import NAMESPACE
from tests.k8s.release_objects import ended, failed, merge_job, pod_of, worker_job
from tests.k8s.status.reading import status, stored
from worker.settings import ChunkSettings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.k8s.cluster_double import ClusterDouble

PAGE = 500


def put_run(cluster: ClusterDouble, count: int, failing: Iterable[int], *, ended_as: str = "Failed") -> None:
    """Put a run of `count` chunks of which those that are `failing` have failed, without pods."""
    given_up = set(failing)
    done = set(range(count)) - given_up
    job = worker_job(count, completed=format_indexes(done), failed=format_indexes(given_up), ended=ended_as)
    job["status"] |= {"succeeded": len(done), "failed": 4 * len(given_up)}
    cluster.put("jobs", job)
    cluster.put("jobs", merge_job())


def put_pods(cluster: ClusterDouble, count: int, failing: Iterable[int]) -> None:
    """Put one pod for each of `count` chunks, of which some have failed."""
    job, given_up = cluster.objects["jobs"]["embedder-worker"], set(failing)
    for chunk in range(count):
        end = (
            ended(65, failed("400 of 1000 images failed"))
            if chunk in given_up
            else ended(0, stored(chunk, of=1000, failed=3))
        )
        pod = pod_of(job, chunk, **end)
        pod["metadata"] |= {"creationTimestamp": "2026-11-23T12:00:00Z", "resourceVersion": "1"}
        cluster.objects["pods"][pod["metadata"]["name"]] = pod


def scattered(count: int, *, among: int) -> list[int]:
    return sorted(random.Random(17).sample(range(among), count))


def cpu_seconds(cluster: ClusterDouble, count: int) -> float:
    """Return the CPU time of a status and of a rerun of half of the chunks, without pods."""
    put_run(cluster, count, scattered(count // 2, among=count))
    before = time.thread_time()
    embedder("status")
    embedder("rerun", "--dry-run")
    return time.thread_time() - before


def test_a_run_of_four_times_the_chunks_takes_about_four_times_the_time(cluster: ClusterDouble) -> None:
    cpu_seconds(cluster, 100)  # imports
    small, large = (min(cpu_seconds(cluster, count) for _ in range(2)) for count in (10_000, 40_000))
    assert large < 8 * small + 0.1


def test_a_rerun_of_50_000_scattered_chunks_fits_into_a_variable(cluster: ClusterDouble) -> None:
    chunks = scattered(50_000, among=100_000)
    put_run(cluster, 100_000, chunks)
    embedder("rerun")
    rerun = cluster.objects["jobs"]["embedder-rerun-1"]
    listed = environment_of(rerun)["EMBEDDER_CHUNK_INDEXES"]
    assert len(listed) < 20_000
    assert parse_indexes(listed) == chunks
    assert rerun["spec"]["completions"] == 50_000
    assert rerun["metadata"]["annotations"][CHUNKS_ANNOTATION].endswith("… (50,000 in all)")
    found = job_from(rerun)
    for index in (0, 1, 777, 49_999):
        worker = ChunkSettings(
            JOB_COMPLETION_INDEX=index,  # type: ignore[call-arg]
            chunk_indexes=listed,
            chunk_count=100_000,
            run_uri="out",
        )
        assert worker.chunk_index == chunks[index] == found.chunks[index]


def test_of_very_many_pods_only_some_are_read(cluster: ClusterDouble) -> None:
    count = 12_000
    failing = range(1, count, 2)
    put_run(cluster, count, failing)
    put_pods(cluster, count, failing)
    found = status()
    read = READ_FAILED_PODS + READ_SUCCEEDED_PODS
    assert cluster.count("list", "pods") <= read // PAGE + 3
    assert {state: each["count"] for state, each in found["chunks"].items() if state != "count"} == {
        "done": count // 2,
        "running": 0,
        "failed": count // 2,
        "waiting": 0,
    }
    with_reason, without = found["failures"]
    assert (with_reason["count"], with_reason["reason"]) == (
        READ_FAILED_PODS,
        "exit code 65: 400 of 1000 images failed",
    )
    assert (without["count"], without["reason"]) == (
        count // 2 - READ_FAILED_PODS,
        "given up (FailedIndexes: Job has failed indexes)",
    )
    assert (found["images"]["settled"], found["images"]["failed"]) == (count // 2 * 1000, count // 2 * 3)
    assert found["retries"] == 3 * count // 2
    assert "that have ended were not" in found["notes"][0]


class Cost(NamedTuple):
    cpu_seconds: float
    peak_mib: float


COMMAND = "from embedder.cli import app; app(sys.argv[1:], standalone_mode=False)"

GATE = """
from common.errors import ChunksMissing
from common.settings import read_settings
from common.store import open_store
from k8s.gate.gate import Gate
from k8s.gate.settings import GateSettings
from k8s.gate.watch import WorkerWatch

settings = read_settings(GateSettings)
try:
    Gate(settings, open_store(settings.run_uri), WorkerWatch(settings)).wait()
except ChunksMissing as error:
    assert "(50,000 in all)" in str(error)
"""


def cost_of(body: str, *arguments: str, **variables: str) -> Cost:
    """Return what the program costs in a process of its own, its start included."""
    code = (
        "import json, re, resource, sys\n"
        "from pathlib import Path\n"
        f"{body}\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
        "print(json.dumps([used.ru_utime + used.ru_stime, peak]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    return Cost(*json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of the memory from /proc")
@pytest.mark.parametrize("pods", [0, 100_000])
def test_100_000_chunks_cost_two_seconds_and_300_mib(cluster: ClusterDouble, pods: int) -> None:
    failing = scattered(50_000, among=100_000)
    put_run(cluster, 100_000, failing)
    put_pods(cluster, pods, failing)
    for command in (["status"], ["status", "--output", "json"], ["rerun", "--dry-run"]):
        cost = cost_of(COMMAND, *command)
        # Twice the goal, because other tests share the cores' caches.
        assert cost.cpu_seconds < 4, command
        assert cost.peak_mib < 300, command


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of the memory from /proc")
def test_a_gate_of_100_000_chunks_costs_two_seconds_and_300_mib(cluster: ClusterDouble, tmp_path: Path) -> None:
    failing = scattered(50_000, among=100_000)
    put_run(cluster, 100_000, failing)
    store = open_store(str(tmp_path / "run"))
    store.put_bytes(chunk_key(0), b"")
    for chunk in set(range(100_000)) - set(failing):
        (tmp_path / "run" / chunk_key(chunk)).touch()
    variables = {"RUN_URI": store.uri, "CHUNK_COUNT": "100000", "ON_FAILED_CHUNKS": "fail", "SETTLE_SECONDS": "0"}
    cost = cost_of(GATE, **{f"EMBEDDER_{name}": value for name, value in variables.items()}, POD_NAMESPACE=NAMESPACE)
    assert cost.cpu_seconds < 4
    assert cost.peak_mib < 300
