"""`embedder status` of a run with deferred images, slow sites and top-ups."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from common.format.chunk_file import Failure
from common.format.reasons import Reason
from common.store import open_store
from merger.merge import merge
from tests.embedder.command_line import embedder
from tests.k8s.cluster_double import NAMESPACE, ClusterDouble
from tests.k8s.release_objects import ended, failed, finished, merge_job, pod_of, running, worker_job
from tests.k8s.status.reading import status
from tests.merger.runs import make_chunk, put_chunk, settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from common.process.last_word import LastWord
    from tests.k8s.release_objects import Object

FLAGS = f"--release embedder -n {NAMESPACE}"
SLOW = "2026-11-23T12:00:0{}.000Z info slow_site chunk={} site={} rate_per_s={} left={} done_in_s={}"
EMBEDDED = "2026-11-23T12:00:01.000Z info embedded chunk={} images=500 of=1000 failed=2 rate_per_s=3 waiting_on=fetch"


def stored(*, deferred: int) -> LastWord:
    return finished("the chunk is in the store", images=1000, of=1000, failed=deferred + 5, deferred=deferred)


def put_merged_run(cluster: ClusterDouble, *, deferred: int, count: int = 4, merge_ended: str = "Complete") -> Object:
    """Put a run whose chunks are done, each with this number of deferred images."""
    job = cluster.put("jobs", worker_job(count, completed=f"0-{count - 1}", ended="Complete"))
    cluster.put("jobs", merge_job(ended=merge_ended))
    for chunk in range(count):
        cluster.put("pods", pod_of(job, chunk, **ended(0, stored(deferred=deferred))))
    return job


def top_up(cluster: ClusterDouble, **status: str | int) -> Object:
    """Create a top-up of all chunks with `embedder topup`, and give it this status."""
    embedder("topup")
    job = cluster.objects["jobs"]["embedder-topup-1"]
    conditions = [{"type": kind, "status": "True", "reason": "r", "message": "m"} for kind in [status.pop("ended", "")]]
    job["status"] = status | {"conditions": [each for each in conditions if each["type"]]}
    return job


def test_deferred_images_are_counted_and_a_top_up_is_suggested(cluster: ClusterDouble) -> None:
    put_merged_run(cluster, deferred=100)
    found = status()
    assert (found["images"]["failed"], found["images"]["deferred"]) == (420, 400)
    assert f"embedder topup {FLAGS}" in found["next"]
    assert "420 failed, of which 400 deferred (embedder topup fetches them)" in embedder("status").out


def test_the_deferred_images_of_a_chunk_are_counted_once_when_a_top_up_finds_nothing_to_fetch(
    cluster: ClusterDouble,
) -> None:
    put_merged_run(cluster, deferred=100, count=1)
    job = top_up(cluster, completedIndexes="0", ended="Complete")
    nothing = finished("nothing to compute again", images=1000, of=1000, failed=105, deferred=100)
    cluster.put("pods", pod_of(job, 0, **ended(0, nothing)))
    assert status()["images"]["deferred"] == 100


def test_no_top_up_is_suggested_where_nothing_is_deferred_or_workers_still_run(cluster: ClusterDouble) -> None:
    put_merged_run(cluster, deferred=0)
    assert not any("topup" in command for command in status()["next"])
    job = cluster.put("jobs", worker_job(4, completed="0-2", active=1))
    for chunk in range(3):
        cluster.put("pods", pod_of(job, chunk, **ended(0, stored(deferred=7))))
    found = status()
    assert found["images"]["deferred"] == 21
    assert not any("topup" in command for command in found["next"])


def test_the_worker_job_being_gone_the_chart_is_suggested(cluster: ClusterDouble) -> None:
    put_merged_run(cluster, deferred=1)
    embedder("topup")
    cluster.delete("jobs", "embedder-worker")
    topup, follows = (cluster.objects["jobs"][f"embedder-topup-1{end}"] for end in ("", "-merge"))
    for job in (topup, follows):
        job["status"] = {"completedIndexes": "0-3", "conditions": [{"type": "Complete", "status": "True"}]}
    cluster.put("pods", pod_of(topup, 0, **ended(0, stored(deferred=1))))
    command = f"helm upgrade embedder <chart> -n {NAMESPACE} --reuse-values --set topUp.enabled=true"
    assert command in status()["next"]


def test_the_reasons_that_may_pass_are_those_of_the_summary(cluster: ClusterDouble, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    reasons = [Reason.DEFERRED, Reason.DEFERRED, Reason.TIMEOUT, Reason.NOT_FOUND]
    failures = [Failure(row, f"http://a/{row}", reason, "", f"{row}") for row, reason in enumerate(reasons)]
    put_chunk(store, replace(make_chunk(0, 3, chunk_count=1), failures=failures))
    merge(store, settings_for(store, 1))
    cluster.put("jobs", worker_job(1, completed="0", ended="Complete", run_uri=store.uri))
    cluster.put("jobs", merge_job(ended="Complete"))
    found = status("--store")
    assert found["may_pass"] == {"deferred": 2, "timeout": 1}
    assert f"embedder topup {FLAGS}" in found["next"]
    assert "3 failed images may be had by embedder topup: deferred 2, timeout 1" in embedder("status", "--store").out


def test_a_top_up_shows_its_chunks_and_its_merge_beside_those_of_the_run(cluster: ClusterDouble) -> None:
    put_merged_run(cluster, deferred=100)
    job = top_up(cluster, completedIndexes="0", failedIndexes="1", active=1)
    cluster.put("pods", pod_of(job, 0, **ended(0, stored(deferred=0))))
    cluster.put("pods", pod_of(job, 1, **ended(65, failed("500 of 1000 images failed"))))
    pod = cluster.put("pods", pod_of(job, 2, **running()))["metadata"]["name"]
    cluster.append_log(pod, "worker", SLOW.format(1, 2, "flickr.com", 1.5, 90, 60))
    follows = cluster.objects["jobs"]["embedder-topup-1-merge"]
    gate = cluster.put("pods", pod_of(follows, None, **running("gate")))["metadata"]["name"]
    line = '2026-11-23T12:00:00.000Z info waiting message="Job embedder-topup-1 is running"'
    cluster.append_log(gate, "gate", line)

    found = status()
    (ours,) = found["top_ups"]
    assert (ours["job"], ours["chunks"], ours["done"], ours["running"], ours["failed"]) == (
        *("embedder-topup-1", 4, "0", "2", "1"),
    )
    assert ours["failures"] == [{"reason": "exit code 65: 500 of 1000 images failed", "count": 1, "chunks": "1"}]
    assert ours["merge"] == "waits: Job embedder-topup-1 is running"
    # The run is as done as before, and what the top-up has fetched is no longer deferred.
    assert found["chunks"]["done"]["indexes"] == "0-3"
    assert (found["failures"], found["merge"].split(":")[0], found["is_finished"]) == ([], "finished", True)
    assert found["images"]["deferred"] == 300
    assert not found["has_ended"]
    assert f"embedder logs 2 -f {FLAGS}" in found["next"]
    assert not any("topup" in command for command in found["next"])
    screen = embedder("status").out
    assert "embedder-topup-1: 1 done, 1 running, 1 waiting, 1 failed of 4 chunks · merge waits" in screen
    assert "chunk 1: exit code 65: 500 of 1000 images failed" in screen
    assert "flickr.com serves 1.5/s, 90 images left, done in 1m 00s" in screen


def test_a_status_that_is_watched_goes_on_until_the_merge_of_the_top_up_has_ended(cluster: ClusterDouble) -> None:
    put_merged_run(cluster, deferred=1)
    top_up(cluster, ended="Complete", completedIndexes="0-3")
    assert not status()["has_ended"]
    merged = cluster.objects["jobs"]["embedder-topup-1-merge"]
    merged["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    cluster.put("jobs", merged)
    found = json.loads(embedder("status", "--watch", "--output", "json").out.splitlines()[-1])
    assert found["has_ended"]
    assert f"embedder topup {FLAGS}" in found["next"], (
        "the pods of the top-up tell nothing, so images are deferred still"
    )


def test_the_slow_sites_of_all_workers_are_added_up(cluster: ClusterDouble) -> None:
    job = cluster.put("jobs", worker_job(3, active=3))
    cluster.put("jobs", merge_job())
    lines = {
        0: [SLOW.format(1, 0, "flickr.com", 9, 500, 60), SLOW.format(2, 0, "flickr.com", 2, 400, 200)],
        1: [SLOW.format(1, 1, "flickr.com", 1.5, 300, 210), SLOW.format(2, 1, "example.org", 1, 5, 5)],
        2: [SLOW.format(1, 2, "done.example", 3, 0, 0)],
    }
    for chunk, said in lines.items():
        pod = cluster.put("pods", pod_of(job, chunk, **running()))["metadata"]["name"]
        for line in [*said, EMBEDDED.format(chunk)]:
            cluster.append_log(pod, "worker", line)
    assert status()["slow_sites"] == [
        {"site": "flickr.com", "rate_per_s": 3.5, "left": 700, "done_in_s": 210.0, "workers": 2},
        {"site": "example.org", "rate_per_s": 1.0, "left": 5, "done_in_s": 5.0, "workers": 1},
    ]
    assert "flickr.com serves 3.5/s, by 2 workers, 700 images left, done in 3m 30s" in embedder("status").out


@pytest.mark.parametrize(("reason", "is_suggested"), [("rate_limited", False), ("not_found", True)])
def test_no_other_setting_is_suggested_against_a_source_that_asks_for_fewer_requests(
    cluster: ClusterDouble, reason: str, is_suggested: bool
) -> None:
    job = cluster.put("jobs", worker_job(2, completed="0", failed="1", ended="Failed"))
    cluster.put("jobs", merge_job())
    counts = {reason: 400, "timeout": 100}
    cluster.put("pods", pod_of(job, 1, **ended(65, failed("500 of 1000 images failed", **counts))))
    (command,) = [each for each in status()["next"] if "rerun" in each]
    assert ("--set-env" in command) == is_suggested
