"""`embedder status` of a run whose result is indexed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.embedder.command_line import embedder
from tests.k8s.cluster_double import NAMESPACE, ClusterDouble
from tests.k8s.release_objects import ended, failed, finished, index_job, merge_job, pod_of, running, worker_job
from tests.k8s.status.reading import status

if TYPE_CHECKING:
    from common.process.last_word import LastWord
    from tests.k8s.release_objects import Object

PROGRESS = "2026-11-23T12:00:00.000Z info index_progress rows=1200000 of=9000000 rate_per_s={} eta_s={}"


def put_run(cluster: ClusterDouble, *, index_ended: str = "", merge_ended: str = "Complete") -> Object:
    cluster.put("jobs", worker_job(2, completed="0-1", ended="Complete"))
    cluster.put("jobs", merge_job(ended=merge_ended))
    job = index_job(ended=index_ended)
    cluster.put("jobs", job)
    return job


def put_log(cluster: ClusterDouble, job: Object, container: str, line: str) -> None:
    pod = cluster.put("pods", pod_of(job, None, **running(container)))["metadata"]["name"]
    cluster.append_log(pod, container, line)


def test_a_release_without_an_index_says_nothing_about_one(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(2, completed="0-1", ended="Complete"))
    cluster.put("jobs", merge_job(ended="Complete"))
    assert status()["index"] is None
    assert "index" not in embedder("status").out


def test_an_index_waits_for_the_merge(cluster: ClusterDouble) -> None:
    job = put_run(cluster, merge_ended="")
    line = '2026-11-23T12:00:00.000Z info waiting message="Job embedder-merge is running; the index follows"'
    put_log(cluster, job, "gate", line)
    assert status()["index"] == "waits: Job embedder-merge is running; the index follows"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (PROGRESS.format(20000, 390), "builds: 1,200,000 of 9,000,000 rows · 20,000/s · 6m 30s left"),
        (PROGRESS.format(0, "unknown"), "builds: 1,200,000 of 9,000,000 rows"),
        ("2026-11-23T12:00:00.000Z info index_step step=saving", "builds: saving"),
        ("2026-11-23T12:00:00.000Z info index_verified recall=0.987", "builds: index_verified recall=0.987"),
        ("a line of a library", "builds: a line of a library"),
    ],
)
def test_an_index_that_is_built_says_how_far_it_is(cluster: ClusterDouble, line: str, said: str) -> None:
    job = put_run(cluster)
    put_log(cluster, job, "indexer", line)
    found = status()
    assert (found["index"], found["is_finished"], found["has_ended"]) == (said, True, False)
    assert said in embedder("status").out


def test_an_index_that_is_published_says_what_it_finds(cluster: ClusterDouble) -> None:
    job = put_run(cluster, index_ended="Complete")
    word = finished("Images_Embedded.bin has 9000000 rows and finds 0.987 of the 10 nearest")
    cluster.put("pods", pod_of(job, None, **ended(0, word, container="indexer")))
    found = status()
    assert found["index"] == f"finished: {word.message}"
    assert found["has_ended"]


@pytest.mark.parametrize(
    ("exit_code", "word", "container", "said"),
    [
        (65, failed("recall@10 is 0.4, at least 0.9 is wanted"), "indexer", "exit code 65: recall@10 is 0.4, at least"),
        (65, failed("Job embedder-merge has failed"), "gate", "exit code 65: Job embedder-merge has failed"),
        (137, "", "indexer", "ran out of memory"),
    ],
)
def test_an_index_that_failed_says_why_and_where_its_log_is(
    cluster: ClusterDouble, exit_code: int, word: LastWord | str, container: str, said: str
) -> None:
    job = put_run(cluster, index_ended="Failed")
    reason = "OOMKilled" if exit_code == 137 else ""
    cluster.put("pods", pod_of(job, None, **ended(exit_code, word, container=container, reason=reason)))
    found = status()
    assert found["index"].startswith("failed (")
    assert said in found["index"]
    assert f"embedder logs --index --release embedder -n {NAMESPACE}" in found["next"]


def test_a_top_up_shows_its_own_index(cluster: ClusterDouble) -> None:
    put_run(cluster, index_ended="Complete")
    embedder("topup")
    jobs = cluster.objects["jobs"]
    for end in ("", "-merge"):
        jobs[f"embedder-topup-1{end}"]["status"] = {
            "completedIndexes": "0-1",
            "conditions": [{"type": "Complete", "status": "True"}],
        }
    index = jobs["embedder-topup-1-index"]
    put_log(cluster, index, "indexer", PROGRESS.format(100, 60))
    found = status()
    (ours,) = found["top_ups"]
    assert ours["index"] == "builds: 1,200,000 of 9,000,000 rows · 100/s · 1m 00s left"
    assert not found["has_ended"]
    assert "· merge finished · index builds: 1,200,000" in embedder("status").out
    index["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    assert status()["has_ended"]
