"""`embedder topup`: the Jobs that it creates, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from common.errors import ClusterAccessDenied, SettingsError, TopUpRefused
from common.format.chunk_file import Failure
from common.format.reasons import Reason
from common.store import open_store
from k8s.release.job import environment_of, job_from
from k8s.topup.job import GPU_DTYPE, TOP_UPS, make_topup, make_topup_index, make_topup_merge, next_topup_name
from merger.merge import merge
from tests.charts.helm import render
from tests.charts.objects import containers, environment, of_kind, pod_spec
from tests.embedder.command_line import embedder
from tests.k8s.cluster_double import NAMESPACE
from tests.k8s.release_objects import index_job, merge_job, pod_of, running, worker_job
from tests.merger.runs import make_chunk, put_chunk, settings_for
from worker.encode.encoder import choose_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from tests.k8s.cluster_double import ClusterDouble, Request
    from tests.k8s.release_objects import Object

FLAGS = f"--release embedder -n {NAMESPACE}"


def put_run(cluster: ClusterDouble, *, merge_ended: str = "Complete", **status: Any) -> Object:  # noqa: ANN401 - of worker_job
    cluster.put("jobs", merge_job(ended=merge_ended))
    return cluster.put("jobs", worker_job(10, **({"completed": "0-9", "ended": "Complete"} | status)))


def created(cluster: ClusterDouble, number: int = 1) -> tuple[Object, Object]:
    """Return the top-up of that number, and the merge that follows it."""
    jobs = cluster.objects["jobs"]
    return jobs[f"embedder-topup-{number}"], jobs[f"embedder-topup-{number}-merge"]


def container(job: Object) -> Object:
    found: Object = job["spec"]["template"]["spec"]["containers"][0]
    return found


def gate(job: Object) -> Object:
    found: Object = job["spec"]["template"]["spec"]["initContainers"][0]
    return found


def test_all_chunks_are_looked_at_in_a_job_like_the_workers_and_a_merge_follows(cluster: ClusterDouble) -> None:
    worker = put_run(cluster)
    merge = cluster.objects["jobs"]["embedder-merge"]
    said = embedder("topup").err
    assert "Job embedder-topup-1 fetches failed images of all chunks again" in said
    assert "Job embedder-topup-1-merge merges when it has ended." in said
    job, follows = created(cluster)
    added = {"EMBEDDER_TOP_UP": "true", "EMBEDDER_CHUNK_INDEXES": "0-9"}
    assert environment_of(job) == environment_of(worker) | added
    for field in ("completions", "completionMode", "backoffLimitPerIndex", "podFailurePolicy", "podReplacementPolicy"):
        assert job["spec"][field] == worker["spec"][field]
    expected = copy.deepcopy(gate(merge))
    expected["env"].append({"name": "EMBEDDER_TOP_UP_JOB", "value": "embedder-topup-1"})
    assert gate(follows) == expected
    assert container(follows) == container(merge)
    assert follows["spec"]["podFailurePolicy"] == merge["spec"]["podFailurePolicy"]
    for each, component in ((job, "topup"), (follows, "topup-merge")):
        assert each["metadata"]["labels"]["app.kubernetes.io/component"] == component
        assert each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == component
        owners = [owner["name"] for owner in each["metadata"]["ownerReferences"]]
        assert owners == ["embedder-worker", "embedder-merge"]


@pytest.mark.parametrize("on_cpus", [False, True])
def test_the_charts_own_top_up_is_the_same_jobs(on_cpus: bool) -> None:
    device = ("topUp.device=cpu", "topUp.nodeSelector.pool=cpus") if on_cpus else ()
    objects = render(
        *("topUp.enabled=true", "topUp.chunks=3\\,7-9", "topUp.memory=4Gi", "topUp.reasons={deferred,timeout}"),
        *("worker.parallelism=2", "worker.nodeSelector.pool=gpus", "worker.runtimeClassName=nvidia", *device),
    )
    jobs = {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in of_kind(objects, "Job")}
    ours = make_topup(
        jobs["worker"],
        name="embedder-topup-1",
        chunks=[3, 7, 8, 9],
        reasons="deferred,timeout",
        owners=[],
        environment={},
        memory="4Gi",
        on_cpus=on_cpus,
        node_selector={"pool": "cpus"} if on_cpus else None,
    )
    merge = make_topup_merge(jobs["merge"], name="embedder-topup-1-merge", topup="embedder-topup-1", owners=[])
    for mine, charts in ((ours, jobs["topup"]), (merge, jobs["topup-merge"])):
        assert mine["metadata"]["name"] == charts["metadata"]["name"]
        assert environment(containers(mine)[0]) == environment(containers(charts)[0])
        for job in (mine, charts):
            containers(job)[0]["env"].clear()
        assert mine["spec"] == charts["spec"]


def test_on_cpus_the_pods_ask_for_no_gpu_and_go_where_they_are_sent(cluster: ClusterDouble) -> None:
    worker = put_run(cluster)
    worker["spec"]["template"]["spec"]["affinity"] = {"nodeAffinity": {}, "podAntiAffinity": {}}
    embedder(
        *("topup", "--device", "cpu", "--cpu", "2", "--memory", "4Gi", "--parallelism", "3", "--chunks", "3-7"),
        *(
            "--reasons",
            "deferred, not_found,deferred",
            "--node-selector",
            "pool=cpus",
            "--set-env",
            "HTTPS_PROXY=http://p/$x",
        ),
    )
    job, _ = created(cluster)
    changed = {
        "EMBEDDER_TOP_UP": "true",
        "EMBEDDER_TOP_UP_REASONS": "deferred,not_found",
        "EMBEDDER_DEVICE": "cpu",
        "EMBEDDER_DTYPE": "float16",  # what the workers choose themselves on GPUs
        "HTTPS_PROXY": "http://p/$x",
        "EMBEDDER_CHUNK_INDEXES": "3-7",
    }
    assert environment_of(job) == environment_of(worker) | changed
    assert container(job)["resources"] == {"limits": {"memory": "4Gi"}, "requests": {"memory": "4Gi", "cpu": "2"}}
    pod = pod_spec(job)
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "cpus"}
    assert "tolerations" not in pod
    assert pod["affinity"] == {"podAntiAffinity": {}}
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (5, 3)


def test_a_dry_run_prints_jobs_that_kubernetes_takes_and_creates_nothing(cluster: ClusterDouble) -> None:
    put_run(cluster)
    jobs = list(yaml.safe_load_all(embedder("topup", "--device", "cpu", "--dry-run").out))
    assert [each["metadata"]["name"] for each in jobs] == ["embedder-topup-1", "embedder-topup-1-merge"]
    for version in ("1.31", kubernetes_validate.latest_version()):
        for job in jobs:
            kubernetes_validate.validate(copy.deepcopy(job), version, strict=True)
    assert cluster.count("create", "jobs") == 0
    assert job_from(jobs[0] | {"status": {}}).chunks == tuple(range(10))


def test_two_at_once_have_names_of_their_own(cluster: ClusterDouble) -> None:
    put_run(cluster)

    def other_is_first(request: Request) -> bool:
        if request.verb == "create" and "embedder-topup-1" not in cluster.objects["jobs"]:
            cluster.put("jobs", worker_job(10, name="embedder-topup-1", component="topup", active=1))
        return True

    cluster.is_allowed = other_is_first
    assert "Job embedder-topup-2 fetches failed images" in embedder("topup").err
    assert environment(gate(created(cluster, 2)[1]))["EMBEDDER_TOP_UP_JOB"] == "embedder-topup-2"


def test_a_top_up_can_be_made_again_and_again(cluster: ClusterDouble) -> None:
    put_run(cluster)
    for number in range(1, 4):
        assert f"Job embedder-topup-{number} fetches" in embedder("topup").err


def test_the_next_name_has_the_next_number_that_the_role_knows() -> None:
    assert next_topup_name("a", ["a-worker", "a-rerun-9", "b-topup-7"]) == "a-topup-1"
    assert next_topup_name("a", ["a-topup-2", "a-topup-5-merge"]) == "a-topup-6"
    assert next_topup_name("a", [f"a-topup-{TOP_UPS}", "a-topup-1"]) == "a-topup-2"
    with pytest.raises(TopUpRefused, match=r"20 top-ups of a exist, .*kubectl delete job a-topup-1 a-topup-1-merge"):
        next_topup_name("a", [f"a-topup-{number}" for number in range(1, TOP_UPS + 1)])


def test_while_workers_still_run_a_top_up_is_refused_with_what_to_do(cluster: ClusterDouble) -> None:
    put_run(cluster, merge_ended="", completed="0-2", ended="", active=4)
    with pytest.raises(TopUpRefused, match=f"embedder-worker still computes chunks 3-9, .*embedder status {FLAGS} --w"):
        embedder("topup")
    assert "failed images of chunks 0-2 again" in embedder("topup", "--chunks", "0-2").err


def test_chunks_that_failed_are_left_to_a_rerun(cluster: ClusterDouble) -> None:
    put_run(cluster, merge_ended="", completed="0-2,4-9", failed="3", ended="Failed")
    assert f"left out because failed: chunk 3; embedder rerun {FLAGS} computes them" in embedder("topup").err
    assert environment_of(created(cluster)[0])["EMBEDDER_CHUNK_INDEXES"] == "0-2,4-9"


def test_without_a_chunk_that_is_done_there_is_nothing_to_top_up(cluster: ClusterDouble) -> None:
    put_run(cluster, merge_ended="", completed="", failed="0-9", ended="Failed")
    with pytest.raises(TopUpRefused, match=f"no chunk of the run is done; .*embedder rerun {FLAGS}"):
        embedder("topup")


@pytest.mark.parametrize(
    ("options", "chunks"), [((), "1,3"), (("--reasons", "not_found"), "0,3"), (("--chunks", "0-2"), "1")]
)
def test_with_the_store_only_chunks_with_such_images_get_a_pod(
    cluster: ClusterDouble, tmp_path: Path, options: tuple[str, ...], chunks: str
) -> None:
    store = open_store(str(tmp_path / "run"))
    reasons = {0: Reason.NOT_FOUND, 1: Reason.DEFERRED}
    for chunk in range(4):
        made = make_chunk(chunk, 3, chunk_count=4)
        failures = [Failure(9, "http://a/b\nc,d", reasons[chunk], "x", "y")] if chunk in reasons else []
        put_chunk(store, replace(made, failures=failures))
    merge(store, settings_for(store, 4))
    # A top-up of this chunk has not been merged yet.
    put_chunk(store, make_chunk(3, 3, chunk_count=4))
    cluster.put("jobs", merge_job(ended="Complete"))
    cluster.put("jobs", worker_job(4, completed="0-3", ended="Complete", run_uri=store.uri))
    embedder("topup", "--store", *options)
    assert environment_of(created(cluster)[0])["EMBEDDER_CHUNK_INDEXES"] == chunks
    assert "nothing to fetch again" in embedder("topup", "--store", "--chunks", "2").err
    assert "embedder-topup-2" not in cluster.objects["jobs"]


def test_with_the_store_all_chunks_of_a_run_that_is_not_merged_are_looked_at(
    cluster: ClusterDouble, tmp_path: Path
) -> None:
    cluster.put("jobs", merge_job())
    cluster.put("jobs", worker_job(4, completed="0-3", ended="Complete", run_uri=str(tmp_path / "run")))
    assert "failed images of all chunks again" in embedder("topup", "--store").err


def test_without_the_worker_job_the_chart_is_named(cluster: ClusterDouble) -> None:
    cluster.put("jobs", merge_job(ended="Complete"))
    with pytest.raises(TopUpRefused, match=r"embedder-worker no longer exists.*helm upgrade .*topUp\.enabled=true"):
        embedder("topup")


def test_without_the_merge_job_the_top_up_says_how_to_merge(cluster: ClusterDouble) -> None:
    cluster.put("jobs", worker_job(10, completed="0-9", ended="Complete"))
    assert "has no merge Job from which a merge could be made" in embedder("topup").err
    assert "embedder-topup-1-merge" not in cluster.objects["jobs"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--chunks", "3,10"], "names chunk 10, but the last of the run's 10 chunks is 9"),
        (["--chunks", "a"], "'a' is neither an index nor a range"),
        (["--chunks", ","], "names no chunk"),
        (["--reasons", "defered"], "--reasons defered is not a reason of failures.csv; choose of .*deferred"),
        (["--reasons", ","], "names no reason"),
        (["--memory", "much"], "--memory much is not a quantity"),
        (["--node-selector", "gpu"], "is not a label"),
        (["--set-env", "EMBEDDER_RUN_URI=s3://other/run"], "would compute chunks of another run"),
    ],
)
def test_wrong_options_are_refused_with_an_example(cluster: ClusterDouble, options: list[str], words: str) -> None:
    put_run(cluster)
    with pytest.raises(SettingsError, match=words):
        embedder("topup", *options)
    assert cluster.count("create", "jobs") == 0


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_can_be_asked_for(cluster: ClusterDouble, reason: Reason) -> None:
    put_run(cluster)
    assert f"value: {reason}\n" in embedder("topup", "--reasons", reason, "--dry-run").out


def test_a_create_that_is_forbidden_is_named(cluster: ClusterDouble) -> None:
    put_run(cluster)
    cluster.is_allowed = lambda request: request.verb != "create"
    with pytest.raises(ClusterAccessDenied, match="not allowed to create jobs in namespace photos"):
        embedder("topup")


def test_a_top_up_whose_jobs_delete_themselves_belongs_to_nobody(cluster: ClusterDouble) -> None:
    for job in (put_run(cluster), cluster.objects["jobs"]["embedder-merge"]):
        job["spec"]["ttlSecondsAfterFinished"] = 60
    said = embedder("topup").err
    assert all(job["metadata"]["ownerReferences"] == [] for job in created(cluster))
    assert f"kubectl delete job embedder-topup-1 embedder-topup-1-merge -n {NAMESPACE}" in said


def test_a_log_is_followed_into_the_top_up_of_its_chunk(cluster: ClusterDouble) -> None:
    put_run(cluster)
    embedder("topup", "--chunks", "3")
    job, _ = created(cluster)
    name = cluster.put("pods", pod_of(job, 0, **running()))["metadata"]["name"]
    cluster.append_log(name, "worker", "a line of the top-up")
    assert "a line of the top-up" in embedder("logs", "3").out


def test_on_cpus_the_number_format_is_the_one_that_workers_choose_on_gpus() -> None:
    torch = pytest.importorskip("torch")
    assert choose_dtype("auto", torch.device("cuda")) == getattr(torch, GPU_DTYPE)


def test_an_index_follows_the_merge_of_the_top_up_where_the_release_has_one(cluster: ClusterDouble) -> None:
    put_run(cluster)
    first = cluster.put("jobs", index_job(ended="Complete"))
    said = embedder("topup").err
    assert "Job embedder-topup-1-index then builds the index again." in said
    index = cluster.objects["jobs"]["embedder-topup-1-index"]
    assert index["metadata"]["labels"]["app.kubernetes.io/component"] == "topup-index"
    assert container(index) == container(first)
    assert environment(gate(index)) == environment(gate(first)) | {
        "EMBEDDER_MERGE_JOB": "embedder-topup-1-merge",
        "EMBEDDER_TOP_UP_JOB": "embedder-topup-1",
    }
    kubernetes_validate.validate(index, "1.34", strict=True)


def test_a_release_without_an_index_gets_none_from_a_top_up(cluster: ClusterDouble) -> None:
    put_run(cluster)
    assert "index" not in embedder("topup").err
    assert set(cluster.objects["jobs"]) == {
        *("embedder-worker", "embedder-merge"),
        *("embedder-topup-1", "embedder-topup-1-merge"),
    }


def test_the_charts_index_of_a_top_up_and_the_commands_have_the_same_pods() -> None:
    jobs = {job["metadata"]["name"]: job for job in of_kind(render("topUp.enabled=true", "index.enabled=true"), "Job")}
    theirs = jobs["embedder-topup-1-index"]
    ours = make_topup_index(jobs["embedder-index"], name="embedder-topup-1-index", topup="embedder-topup-1", owners=[])
    assert environment(gate(ours)) == environment(gate(theirs))
    for job in (ours, theirs):
        gate(job)["env"].clear()
    assert pod_spec(ours) == pod_spec(theirs)
