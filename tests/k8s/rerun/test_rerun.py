"""`embedder rerun`: the Job that it creates, and what it refuses."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ClusterAccessDenied, ClusterUnavailable, RerunRefused, SettingsError
from common.indexes import format_indexes, parse_indexes
from k8s.derived_job import derive_worker_job
from k8s.release.job import environment_of, job_from
from k8s.release.labels import Component
from k8s.rerun.job import doubled, next_name
from tests.charts.helm import render
from tests.charts.objects import of_kind
from tests.embedder.command_line import embedder
from tests.k8s.release_objects import merge_job, pod_of, running, worker_job
from worker.settings import ChunkSettings

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.k8s.cluster_double import ClusterDouble, Request
    from tests.k8s.release_objects import Object


def put_run(cluster: ClusterDouble, **status: Any) -> Object:  # noqa: ANN401 - of worker_job
    cluster.put("jobs", merge_job())
    return cluster.put("jobs", worker_job(10, **status))


def rerun_of(worker: Object, chunks: Collection[int], *, memory: str = "") -> Object:
    return derive_worker_job(
        worker, name="r", component=Component.RERUN, chunks=chunks, owners=[], environment={}, memory=memory
    )


def container(job: Object) -> Object:
    found: Object = job["spec"]["template"]["spec"]["containers"][0]
    return found


def test_the_failed_chunks_are_computed_again_in_a_job_like_the_workers(cluster: ClusterDouble) -> None:
    worker = put_run(cluster, completed="0-2,4-6", failed="3,7-9", ended="Failed")
    said = embedder("rerun").err
    rerun = cluster.objects["jobs"]["embedder-rerun-1"]
    assert "Job embedder-rerun-1 computes chunks 3,7-9 again" in said
    assert environment_of(rerun)["EMBEDDER_CHUNK_INDEXES"] == "3,7-9"
    assert (rerun["spec"]["completions"], rerun["spec"]["parallelism"]) == (4, 4)
    for field in ("completionMode", "backoffLimitPerIndex", "podFailurePolicy", "podReplacementPolicy"):
        assert rerun["spec"][field] == worker["spec"][field]
    labels = rerun["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "rerun"
    assert labels["app.kubernetes.io/instance"] == "embedder"
    assert rerun["spec"]["template"]["metadata"]["labels"] == {
        "app.kubernetes.io/component": "rerun",
        "app.kubernetes.io/instance": "embedder",
        "app.kubernetes.io/name": "embedder",
        "embedder-release": "embedder",
        "kuma.io/sidecar-injection": "disabled",
        "sidecar.istio.io/inject": "false",
    }
    expected = copy.deepcopy(container(worker))
    expected["env"].append({"name": "EMBEDDER_CHUNK_INDEXES", "value": "3,7-9"})
    assert container(rerun) == expected


def test_the_charts_own_rerun_is_the_same_job() -> None:
    objects = render("rerun.chunks=3\\,7-9", "rerun.memory=16Gi", "worker.parallelism=2")
    jobs = {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in of_kind(objects, "Job")}
    worker, charts = jobs["worker"], jobs["rerun"]
    ours = rerun_of(worker, [3, 7, 8, 9], memory="16Gi")
    assert environment_of(ours) == environment_of(charts)
    assert (job_from(ours).chunks, job_from(ours).run) == (job_from(charts).chunks, job_from(charts).run)
    for job in (ours, charts):
        container(job)["env"].clear()
    assert ours["spec"] == charts["spec"]


def test_the_rerun_is_deleted_with_the_release(cluster: ClusterDouble) -> None:
    put_run(cluster, failed="3", ended="Failed")
    embedder("rerun", "--chunks", "3")
    rerun = cluster.objects["jobs"]["embedder-rerun-1"]
    jobs = cluster.objects["jobs"]
    assert rerun["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": jobs[name]["metadata"]["uid"]}
        for name in ("embedder-worker", "embedder-merge")
    ]


def test_it_shows_in_the_status_and_its_chunks_are_then_busy(cluster: ClusterDouble) -> None:
    put_run(cluster, completed="0-2,4-9", failed="3", ended="Failed")
    embedder("rerun")
    rerun = cluster.objects["jobs"]["embedder-rerun-1"]
    cluster.put("pods", pod_of(rerun, 0, **running()))
    assert "1 running" in embedder("status").out
    assert "1 are still computed" in embedder("rerun").err
    with pytest.raises(RerunRefused, match="Job embedder-rerun-1 still computes chunk 3"):
        embedder("rerun", "--chunks", "3")


def test_what_was_asked_for_is_changed_and_nothing_else(cluster: ClusterDouble) -> None:
    worker = put_run(cluster, failed="3,4,5", ended="Failed")
    embedder(
        *("rerun", "--chunks", "3-5", "--memory", "16Gi", "--cpu", "8", "--parallelism", "2"),
        *("--set-env", "EMBEDDER_DEVICE=cpu", "--set-env", "HTTPS_PROXY=http://proxy/$x"),
    )
    rerun = cluster.objects["jobs"]["embedder-rerun-1"]
    assert container(rerun)["resources"] == {
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "1"},
        "requests": {"memory": "16Gi", "cpu": "8"},
    }
    assert rerun["spec"]["parallelism"] == 2
    changed = {"EMBEDDER_DEVICE": "cpu", "HTTPS_PROXY": "http://proxy/$x", "EMBEDDER_CHUNK_INDEXES": "3-5"}
    assert environment_of(rerun) == environment_of(worker) | changed
    names = [each["name"] for each in container(rerun)["env"]]
    assert len(names) == len(set(names))


def test_a_second_rerun_has_a_name_of_its_own(cluster: ClusterDouble) -> None:
    put_run(cluster, failed="3,4", ended="Failed")
    embedder("rerun", "--chunks", "3")
    assert "embedder-rerun-2" in embedder("rerun", "--chunks", "4").err


def test_the_next_name_is_taken_when_somebody_else_has_taken_the_first(cluster: ClusterDouble) -> None:
    put_run(cluster, failed="3,4", ended="Failed")
    other = worker_job(1, name="embedder-rerun-1", component="rerun", of=10, chunks="4", active=1)

    def other_is_first(request: Request) -> bool:
        if request.verb == "create" and "embedder-rerun-1" not in cluster.objects["jobs"]:
            cluster.put("jobs", other)
        return True

    cluster.is_allowed = other_is_first
    assert "Job embedder-rerun-2 computes chunk 3 again" in embedder("rerun", "--chunks", "3").err


def test_a_dry_run_prints_a_job_that_kubernetes_takes_and_creates_nothing(cluster: ClusterDouble) -> None:
    put_run(cluster, completed="0-2,4-6", failed="3,7-9", ended="Failed")
    job = yaml.safe_load(embedder("rerun", "--dry-run").out)
    for version in ("1.31", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(copy.deepcopy(job), version, strict=True)
    assert cluster.count("create", "jobs") == 0
    assert job_from(job | {"status": {}}).chunks == (3, 7, 8, 9)


def test_chunks_that_are_still_computed_are_refused(cluster: ClusterDouble) -> None:
    put_run(cluster, completed="0-2", failed="3", active=6)
    with pytest.raises(RerunRefused, match="Job embedder-worker still computes chunks 5,6, or will"):
        embedder("rerun", "--chunks", "3,5-6")
    assert "computes chunk 3 again" in embedder("rerun").err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--chunks", "3,10"], "names chunk 10, but the last of the run's 10 chunks is 9"),
        (["--chunks", "a"], "'a' is neither an index nor a range"),
        (["--chunks", ","], "names no chunk"),
        (["--memory", "much"], "--memory much is not a quantity"),
        (["--set-env", "A"], "is not an assignment"),
        (["--set-env", "EMBEDDER_RUN_URI=s3://other/run"], "would compute chunks of another run"),
    ],
)
def test_wrong_options_are_refused_with_an_example(cluster: ClusterDouble, options: list[str], words: str) -> None:
    put_run(cluster, failed="3", ended="Failed")
    with pytest.raises(SettingsError, match=words):
        embedder("rerun", *options)
    assert cluster.count("create", "jobs") == 0


def test_chunks_that_are_done_are_left_out_without_force(cluster: ClusterDouble) -> None:
    put_run(cluster, completed="0-2,4-9", failed="3", ended="Failed")
    assert "left out because done already: chunk 2" in embedder("rerun", "--chunks", "2-3").err
    assert environment_of(cluster.objects["jobs"]["embedder-rerun-1"])["EMBEDDER_CHUNK_INDEXES"] == "3"
    assert "nothing to compute again" in embedder("rerun", "--chunks", "2").err
    assert "computes chunk 2 again" in embedder("rerun", "--chunks", "2", "--force").err


def test_after_a_wrong_setting_all_missing_chunks_are_computed_again(cluster: ClusterDouble) -> None:
    put_run(cluster, completed="0", ended="Failed", reason="PodFailurePolicy")
    assert "computes chunks 1-9 again" in embedder("rerun").err


def test_a_merge_that_has_ended_is_mentioned(cluster: ClusterDouble) -> None:
    cluster.put("jobs", merge_job(ended="Failed"))
    cluster.put("jobs", worker_job(10, failed="3", ended="Failed"))
    assert "Job embedder-merge has ended" in embedder("rerun").err


def test_a_create_that_is_forbidden_is_named(cluster: ClusterDouble) -> None:
    put_run(cluster, failed="3", ended="Failed")
    cluster.is_allowed = lambda request: request.verb != "create"
    with pytest.raises(ClusterAccessDenied, match="not allowed to create jobs in namespace photos"):
        embedder("rerun")


def test_what_kueue_and_the_api_added_to_the_template_is_left_out() -> None:
    worker = worker_job(10)
    template = worker["spec"]["template"]["metadata"]
    template["labels"]["kueue.x-k8s.io/podset"] = "main"
    template["annotations"]["kueue.x-k8s.io/workload"] = "job-embedder"
    worker["spec"] |= {"suspend": True, "maxFailedIndexes": 5}
    rerun = rerun_of(worker, [1, 2])
    assert "kueue" not in str(rerun["spec"]["template"])
    assert not {"suspend", "selector", "maxFailedIndexes"} & rerun["spec"].keys()
    assert worker["spec"]["suspend"], "the object of the worker Job is not changed"


def test_kueues_names_are_left_out_of_a_rerun_of_a_job_that_an_older_chart_has_created() -> None:
    worker = worker_job(10)
    del worker["metadata"]["annotations"]["embedder/own-pod"]
    template = worker["spec"]["template"]
    template["metadata"]["labels"]["kueue.x-k8s.io/podset"] = "main"
    template["metadata"]["annotations"]["kueue.x-k8s.io/workload"] = "job-embedder"
    rerun = rerun_of(worker, [1, 2])
    assert "kueue" not in str(rerun["spec"]["template"])
    assert rerun["spec"]["template"]["spec"]["tolerations"] == template["spec"]["tolerations"]


def test_the_next_name_has_the_next_number_and_doubled_is_twice_a_quantity() -> None:
    assert next_name("a", ["a-rerun-2", "a-rerun-10", "a-rerun-x", "b-rerun-50", "a-worker"]) == "a-rerun-11"
    assert [doubled(each) for each in ("6Gi", "512Mi", "1.5Gi", "")] == ["12Gi", "1024Mi", "", ""]


CHUNKS = st.sets(st.integers(0, 199), min_size=1, max_size=40)


@settings(deadline=None, max_examples=30)
@given(chunks=CHUNKS, data=st.data())
def test_indexes_and_chunks_map_as_the_worker_maps_them(chunks: set[int], data: st.DataObject) -> None:
    rerun = rerun_of(worker_job(200), sorted(chunks))
    count = rerun["spec"]["completions"]
    done = data.draw(st.sets(st.integers(0, count - 1)))
    rerun["status"] = {
        "completedIndexes": format_indexes(done),
        "failedIndexes": format_indexes({*range(count)} - done),
    }
    job = job_from(rerun)
    given_to_worker = environment_of(rerun)["EMBEDDER_CHUNK_INDEXES"]
    for index in range(count):
        worker = ChunkSettings(
            JOB_COMPLETION_INDEX=index,  # type: ignore[call-arg]
            chunk_indexes=given_to_worker,
            chunk_count=200,
            run_uri="out",
        )
        assert job.chunks[index] == worker.chunk_index
        assert (worker.chunk_index in job.completed) == (index in done)
        assert job.index_of(worker.chunk_index) == index
    assert job.completed | job.failed == chunks
    assert parse_indexes(given_to_worker) == sorted(chunks)


def test_after_too_many_failed_indexes_the_chunks_that_never_ran_are_computed_too(cluster: ClusterDouble) -> None:
    worker = put_run(cluster, completed="0", failed="1,2", ended="Failed", reason="MaxFailedIndexesExceeded")
    worker["spec"]["maxFailedIndexes"] = 1
    assert "computes chunks 1-9 again" in embedder("rerun").err
    assert cluster.objects["jobs"]["embedder-rerun-1"]["spec"]["maxFailedIndexes"] == 1


def test_a_rerun_goes_on_when_every_job_of_the_release_has_a_time_to_live(cluster: ClusterDouble) -> None:
    worker = put_run(cluster, failed="3", ended="Failed")
    worker["spec"]["ttlSecondsAfterFinished"] = 60
    embedder("rerun")
    jobs = cluster.objects["jobs"]
    assert len(jobs["embedder-rerun-1"]["metadata"]["ownerReferences"]) == 2
    del jobs["embedder-rerun-1"]

    jobs["embedder-merge"]["spec"]["ttlSecondsAfterFinished"] = 60
    said = embedder("rerun").err
    rerun = jobs["embedder-rerun-1"]
    assert rerun["metadata"]["ownerReferences"] == []
    assert rerun["spec"]["ttlSecondsAfterFinished"] == 60
    assert "kubectl delete job embedder-rerun-1 -n photos" in said


def test_without_the_worker_job_a_rerun_is_refused_with_the_remedy(cluster: ClusterDouble) -> None:
    cluster.put("jobs", merge_job())
    with pytest.raises(RerunRefused, match=r"embedder-worker no longer exists.*helm upgrade with rerun\.chunks="):
        embedder("rerun", "--chunks", "3")


def test_what_a_kueue_flavor_added_to_the_worker_job_is_not_in_the_rerun(cluster: ClusterDouble) -> None:
    # The request for a topology is the person's own, and stays.
    request = r"worker.podAnnotations.kueue\.x-k8s\.io/podset-required-topology=rack"
    jobs = of_kind(render("kueue.queueName=gpus", request), "Job")
    (worker,) = [job for job in jobs if "worker" in job["metadata"]["name"]]
    pod = worker["spec"]["template"]["spec"]
    own = copy.deepcopy(pod)
    # Kueue admits the Job with a flavor, and starts it.
    pod["tolerations"] = [*own["tolerations"], {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]
    pod["nodeSelector"] = {"cloud.example.com/pool": "spot"}
    pod["schedulingGates"] = [{"name": "kueue.x-k8s.io/topology"}]
    metadata = worker["spec"]["template"]["metadata"]
    chosen = copy.deepcopy(metadata["annotations"])
    metadata["labels"] |= {"kueue.x-k8s.io/podset": "main", "kueue.x-k8s.io/tas": "true"}
    metadata["annotations"] |= {
        "kueue.x-k8s.io/workload": "job-embedder-worker-1",
        "autoscaling.x-k8s.io/consume-provisioning-request": "of-the-worker",
    }
    worker["metadata"]["labels"]["kueue.x-k8s.io/prebuilt-workload-name"] = "of-the-worker"
    worker["spec"]["suspend"] = False
    rerun = rerun_of(worker, [1])
    copied = rerun["spec"]["template"]["spec"]
    assert [copied[name] for name in ("tolerations", "nodeSelector")] == [own["tolerations"], own["nodeSelector"]]
    assert "schedulingGates" not in copied
    assert "kueue" not in str(rerun["spec"]["template"]["metadata"]["labels"])
    assert rerun["spec"]["template"]["metadata"]["annotations"] == chosen
    assert "kueue.x-k8s.io/podset-required-topology" in chosen
    assert "kueue.x-k8s.io/prebuilt-workload-name" not in rerun["metadata"]["labels"]
    assert rerun["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"

    worker["metadata"]["annotations"]["embedder/own-pod"] = "{"
    cluster.put(
        "jobs", worker | {"status": {"failedIndexes": "3", "conditions": [{"type": "Failed", "status": "True"}]}}
    )
    with pytest.raises(ClusterUnavailable, match="annotation embedder/own-pod of the worker Job cannot be read"):
        embedder("rerun")
