"""The chart on a real cluster, from install to uninstall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from common.exit_policy import UNCOUNTED_FAILURES, UNCOUNTED_FAILURES_VARIABLE
from common.findings import Subject, Verdict, read_finding
from common.logs import parse_line
from tests.e2e.cluster import MERGE, RELEASE, WORKER, Cluster, CommandError
from tests.e2e.conftest import ALL, CHUNKS, PER_CHUNK, Bucket

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(1800)

KINDS = "jobs,pods,secrets,serviceaccounts,roles,rolebindings"
SELECTOR = f"app.kubernetes.io/instance={RELEASE}"


def slow(values: dict[str, Any]) -> None:
    """Limit the CPU, so that a worker starts slowly enough to be interrupted. It needs a few seconds of one core."""
    values["worker"]["resources"]["limits"]["cpu"] = "200m"


def test_a_run_completes_and_can_be_followed_upgraded_tested_and_uninstalled(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    cluster.install(values, tmp_path)
    cluster.wait_until_complete(WORKER)
    cluster.wait_until_complete(MERGE)
    assert cluster.status()["completedIndexes"] == f"0-{CHUNKS - 1}"
    assert bucket.result_urls() == urls
    assert bucket.run_objects() == {"Images_Embedded.h5", "failures.csv", "report.html", "summary.json"}

    # kubectl finds the log of a chunk by labels, and every line of it names the chunk.
    labels = f"batch.kubernetes.io/job-name={WORKER},batch.kubernetes.io/job-completion-index=2"
    lines = [parse_line(line) for line in cluster.kubectl("logs", "--selector", labels, "--tail=-1").splitlines()]
    assert {line.values.get("chunk") if line else None for line in lines} == {"2"}
    assert lines[-1] is not None
    assert lines[-1].event == "finished"

    # An upgrade without changes leaves the Jobs as they are. An upgrade that would change their pods is refused.
    before = [cluster.get("job", job)["metadata"] for job in (WORKER, MERGE)]
    cluster.upgrade()
    after = [cluster.get("job", job)["metadata"] for job in (WORKER, MERGE)]
    for field in ("uid", "generation", "annotations", "labels"):
        assert [each[field] for each in after] == [each[field] for each in before], field
    with pytest.raises(CommandError, match=f"would change the pods of Job {WORKER}"):
        cluster.upgrade("worker.batchSize=3")
    cluster.upgrade("worker.parallelism=2")
    assert cluster.get("job", WORKER)["spec"]["parallelism"] == 2

    assert "Succeeded" in cluster.helm("test", RELEASE, "--logs")

    kept = bucket.run_objects()
    cluster.helm("uninstall", RELEASE, "--wait")
    # Helm 3 leaves the pod of its last test.
    cluster.until(
        lambda: not cluster.get(KINDS, "--selector", f"{SELECTOR},app.kubernetes.io/component!=test")["items"],
        "all objects of the release are deleted",
    )
    assert bucket.run_objects() == kept


def test_the_photos_below_a_prefix_are_embedded_in_three_chunks(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    photos = f"s3://{bucket.name}/{bucket.prefix}/photos/"
    cluster.install(values | {"manifest": {"uri": photos}, "chunks": {"count": 3}}, tmp_path)
    cluster.wait_until_complete(WORKER)
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == [f"{photos}{number:02}.jpg" for number in ALL]


@pytest.mark.parametrize("names", ["", "{00000..00003}.tar"], ids=["prefix", "braces"])
def test_the_photos_in_four_tar_shards_are_embedded_in_three_chunks(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path, names: str
) -> None:
    photos = bucket.upload_shards(4)
    shards = f"s3://{bucket.name}/{bucket.prefix}/shards/{names}"
    cluster.install(values | {"manifest": {"uri": shards}, "chunks": {"count": 3}}, tmp_path)
    cluster.wait_until_complete(WORKER)
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == photos


def test_a_check_tries_what_the_run_needs_in_its_own_pod_and_the_run_follows(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    cluster.install(values | {"check": {"enabled": True}}, tmp_path)
    check = f"{SELECTOR},app.kubernetes.io/component=check"
    (job,) = cluster.get("jobs", "--selector", SELECTOR)["items"]
    cluster.wait_until_complete(str(job["metadata"]["name"]))
    log = cluster.kubectl("logs", "--selector", check, "--tail=-1")
    found = {finding.subject: finding for line in log.splitlines() if (finding := read_finding(line)) is not None}
    assert {finding.verdict for subject, finding in found.items() if subject is not Subject.MODEL} == {Verdict.OK}
    assert found[Subject.MODEL].verdict is Verdict.WARNING, "the weights are random"
    assert bucket.run_objects() == set()

    cluster.upgrade("check.enabled=false")
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == urls
    with pytest.raises(CommandError, match=f"Job {WORKER} exists"):
        cluster.upgrade("check.enabled=true")


def test_a_chunk_that_cannot_succeed_fails_its_index_and_a_rerun_finishes_the_run(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    absent = range(2 * PER_CHUNK, 3 * PER_CHUNK)
    bucket.upload_photos(range(2 * PER_CHUNK))
    bucket.upload_photos(range(3 * PER_CHUNK, 4 * PER_CHUNK))
    urls = bucket.upload_list()
    cluster.install(values, tmp_path)
    assert cluster.wait_until_failed(WORKER)["reason"] == "FailedIndexes"
    status = cluster.status()
    assert (status["failedIndexes"], status["completedIndexes"]) == ("2", "0,1,3")
    assert len(cluster.pods(2)) == 1, "exit code 65 is not retried"

    cluster.until(
        lambda: "embedder rerun" in cluster.log(f"job/{MERGE}", "gate"), "the merge logs how to rerun the chunk"
    )
    assert "Images_Embedded.h5" not in bucket.run_objects()

    bucket.upload_photos(absent)
    cluster.upgrade("rerun.chunks=2")
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == urls


def test_a_deleted_worker_is_replaced_and_the_deletion_does_not_count_as_a_failure(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    values["worker"]["backoffLimitPerIndex"] = 0
    slow(values)
    cluster.install(values, tmp_path)
    deleted: set[str] = set()
    for _ in range(2):
        pod = cluster.wait_until_started(1, besides=deleted)
        cluster.kubectl("delete", "pod", pod, "--wait=false")
        deleted.add(pod)
    cluster.wait_until_complete(MERGE)
    assert not cluster.status().get("failedIndexes")
    assert bucket.result_urls() == urls


def test_a_worker_that_is_deleted_by_force_is_replaced(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    slow(values)
    cluster.install(values, tmp_path)
    pod = cluster.wait_until_started(1, besides=set())
    # A kubelet lets it one second, so that the exit code is 143 or 137.
    cluster.kubectl("delete", "pod", pod, "--force", "--grace-period=0")
    cluster.wait_until_complete(MERGE)
    assert not cluster.status().get("failedIndexes")
    assert bucket.result_urls() == urls


def test_a_chunk_whose_pods_are_stopped_again_and_again_fails_in_the_end(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    values["worker"]["backoffLimitPerIndex"] = 1
    # As if ten pods of each index had been stopped already, which takes an hour of pauses between them.
    values["worker"]["extraEnv"] = [{"name": UNCOUNTED_FAILURES_VARIABLE, "value": str(UNCOUNTED_FAILURES)}]
    slow(values)
    cluster.install(values, tmp_path)
    stopped: set[str] = set()
    for _ in range(2):
        pod = cluster.wait_until_started(1, besides=stopped)
        cluster.kubectl("delete", "pod", pod, "--wait=false")
        stopped.add(pod)
    assert cluster.wait_until_failed(WORKER)["reason"] == "FailedIndexes"
    status = cluster.status()
    assert (status["failedIndexes"], status["completedIndexes"]) == ("1", "0,2,3")

    cluster.upgrade("rerun.chunks=1")
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == urls


@pytest.mark.parametrize("mode", ["wait", "fail", "partial"])
def test_a_worker_job_that_is_deleted_after_its_time_to_live_is_neither_waited_for_nor_started_again(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path, mode: str
) -> None:
    bucket.upload_photos(range(3 * PER_CHUNK))
    urls = bucket.upload_list()
    values["worker"]["ttlSecondsAfterFinished"] = 5
    values["merge"] = {"onFailedChunks": mode}
    cluster.install(values, tmp_path)
    cluster.until(lambda: cluster.has_job(WORKER), "the worker Job exists")
    cluster.until(lambda: not cluster.has_job(WORKER), "the worker Job has been deleted")
    if mode == "fail":
        cluster.wait_until_failed(MERGE)
        assert f"Job {WORKER} has failed" in cluster.log(f"job/{MERGE}", "gate")
        return
    if mode == "wait":
        bucket.upload_photos(range(3 * PER_CHUNK, 4 * PER_CHUNK))
        assert "no longer exists" in cluster.embedder("status")
        with pytest.raises(CommandError, match="no longer exists, so a rerun cannot be made from it"):
            cluster.embedder("rerun", "--chunks", "3")
        cluster.upgrade("rerun.chunks=3")
        assert not cluster.has_job(WORKER)
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == (urls if mode == "wait" else urls[: 3 * PER_CHUNK])
    assert "finished" in cluster.embedder("status")
    cluster.upgrade()
    assert not cluster.has_job(WORKER)


@pytest.mark.parametrize("limit", [0, 9])
def test_a_limit_of_failed_chunks_and_a_rerun_go_together(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path, limit: int
) -> None:
    bucket.upload_photos(range(PER_CHUNK, 4 * PER_CHUNK))
    urls = bucket.upload_list()
    # With the limit 0, the first chunk ends the Job before the others are computed. 9 is more than there are chunks.
    values["worker"] |= {"maxFailedIndexes": limit, "parallelism": 1}
    cluster.install(values, tmp_path)
    reason = "MaxFailedIndexesExceeded" if limit == 0 else "FailedIndexes"
    assert cluster.wait_until_failed(WORKER)["reason"] == reason
    bucket.upload_photos(range(PER_CHUNK))
    if limit == 0:
        cluster.embedder("rerun")
        rerun = f"{RELEASE}-rerun-1"
        assert cluster.get("job", rerun)["spec"]["completions"] == CHUNKS
        cluster.wait_until_complete(rerun)
    else:
        cluster.upgrade("rerun.chunks=0")
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == urls


def test_an_evicted_worker_is_replaced_and_the_eviction_does_not_count_as_a_failure(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    values["worker"]["backoffLimitPerIndex"] = 0
    slow(values)
    cluster.install(values, tmp_path)
    evicted: set[str] = set()
    for _ in range(2):
        pod = cluster.wait_until_started(0, besides=evicted)
        cluster.evict(pod)
        evicted.add(pod)
    cluster.wait_until_complete(WORKER)
    cluster.wait_until_complete(MERGE)
    assert not cluster.status().get("failedIndexes")
    assert bucket.result_urls() == urls


def test_a_killed_merge_is_replaced_and_nothing_is_lost(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    cluster.install(values, tmp_path)
    pods = f"batch.kubernetes.io/job-name={MERGE}"
    cluster.until(lambda: cluster.get("pods", "--selector", pods)["items"], "the merge has a pod")
    cluster.kubectl("delete", "pod", "--selector", pods, "--force", "--grace-period=0")
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == urls


@pytest.mark.parametrize("bad", [{"model": "/nowhere"}, {"sources": "nowhere"}], ids=["weights", "sources"])
def test_a_bad_setting_fails_the_whole_job_at_once(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path, bad: dict[str, str]
) -> None:
    bucket.upload_photos(ALL)
    bucket.upload_list()
    values["worker"] |= {**bad, "parallelism": 1}
    values["merge"] = {"onFailedChunks": "fail"}
    cluster.install(values, tmp_path)
    assert cluster.wait_until_failed(WORKER)["reason"] == "PodFailurePolicy"
    assert sum(len(cluster.pods(index)) for index in range(CHUNKS)) == 1
    cluster.wait_until_failed(MERGE)
    assert bucket.run_objects() == set()


def test_a_partial_merge_leaves_out_the_missing_chunks(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(range(2 * PER_CHUNK))
    urls = bucket.upload_list()
    values["merge"] = {"onFailedChunks": "partial"}
    cluster.install(values, tmp_path)
    cluster.wait_until_failed(WORKER)
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == urls[: 2 * PER_CHUNK]


def test_without_rbac_the_merge_watches_only_the_store(
    cluster: Cluster, bucket: Bucket, values: dict[str, Any], tmp_path: Path
) -> None:
    bucket.upload_photos(ALL)
    urls = bucket.upload_list()
    values["rbac"] = {"create": False}
    cluster.install(values, tmp_path)
    cluster.wait_until_complete(MERGE)
    assert bucket.result_urls() == urls
