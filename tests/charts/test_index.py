"""The index: a Job that follows the merge, and one that follows the merge of each top-up."""

from __future__ import annotations

import pytest

from k8s.topup.job import TOP_UPS
from tests.charts.api_double import api_server
from tests.charts.helm import HelmError, helms, render, template
from tests.charts.objects import Object, containers, environment, named, of_kind, pod_spec
from tests.charts.test_notes import notes
from tests.charts.test_upgrade import TIMES_TO_LIVE, jobs, rendered_jobs, upgrade

EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])

ENABLED = "index.enabled=true"


def index(*assignments: str, name: str = "embedder-index") -> Object:
    return named(render(ENABLED, *assignments), "Job", name)


def indexer(*assignments: str) -> Object:
    found: Object = containers(index(*assignments))[-1]
    return found


def scratch(*assignments: str) -> Object:
    volume: Object
    (volume,) = [each for each in pod_spec(index(*assignments))["volumes"] if each["name"] == "scratch"]
    return volume


def test_a_release_has_no_index_unless_one_is_wanted_and_none_while_it_only_checks() -> None:
    assert "index" not in {job["metadata"]["labels"]["app.kubernetes.io/component"] for job in of_kind(render(), "Job")}
    assert len(of_kind(render(ENABLED, "check.enabled=true"), "Job")) == 1
    assert set(rendered_jobs(template("--set", ENABLED))) == {"worker", "merge", "index"}


def test_its_gate_waits_for_the_merge_and_its_program_builds_the_index() -> None:
    job = index("metrics.enabled=true")
    gate, program = containers(job)
    assert gate["command"] == ["python", "-m", "k8s.gate", "index"]
    assert environment(gate)["EMBEDDER_MERGE_JOB"] == "embedder-merge"
    assert "EMBEDDER_TOP_UP_JOB" not in environment(gate)
    assert "EMBEDDER_METRICS_PORT" not in environment(gate), "it would serve the metrics of another gate"
    assert program["command"] == ["python", "-m", "results.index"]
    assert pod_spec(job)["serviceAccountName"] == "embedder-merge"
    assert {"name": "scratch", "mountPath": environment(program)["EMBEDDER_INDEX_FOLDER"]} in program["volumeMounts"]
    # Only the gate reads the API.
    assert [each["name"] for each in program["volumeMounts"]] == ["tmp", "scratch"]


def test_the_index_after_a_top_up_differs_only_in_what_its_gate_waits_for() -> None:
    ours, first = (index("topUp.enabled=true", name=name) for name in ("embedder-topup-1-index", "embedder-index"))
    expected = environment(containers(first)[0]) | {
        "EMBEDDER_MERGE_JOB": "embedder-topup-1-merge",
        "EMBEDDER_TOP_UP_JOB": "embedder-topup-1",
    }
    assert environment(containers(ours)[0]) == expected
    for job in (ours, first):
        containers(job)[0]["env"].clear()
        del job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
    assert ours["spec"] == first["spec"]


@pytest.mark.parametrize(
    ("assignments", "source"),
    [
        ((), None),
        (("index.resources=null",), "none"),
        (("index.resources.limits.cpu=8",), "limits.cpu"),
        (("index.threads=3",), "3"),
    ],
)
def test_the_number_of_threads_is_that_of_the_cpus_unless_it_is_set(
    assignments: tuple[str, ...], source: str | None
) -> None:
    found = {each["name"]: each for each in indexer(*assignments)["env"]}
    threads = found.get("EMBEDDER_INDEX_THREADS", {})
    if source == "none":
        assert not threads
    elif source == "3":
        assert threads["value"] == "3"
        assert found["OMP_NUM_THREADS"]["valueFrom"]["resourceFieldRef"]["resource"] == "requests.cpu"
    else:
        reference = threads["valueFrom"]["resourceFieldRef"]
        assert (reference["containerName"], reference["resource"]) == ("indexer", source or "requests.cpu")


def test_the_image_is_that_of_the_merge_unless_another_is_named() -> None:
    merge = ("image.merge.repository=team/merge", "image.merge.tag=v3", "image.registry=registry.example.com")
    assert indexer(*merge)["image"] == "registry.example.com/team/merge:v3"
    own = (*merge, "image.index.repository=team/index")
    assert indexer(*own)["image"] == "registry.example.com/team/index:0.1.0"
    assert indexer(*own, "image.index.tag=2")["image"] == "registry.example.com/team/index:2"
    gate, _ = containers(index(*own))
    assert gate["image"] == "registry.example.com/team/merge:v3"
    with pytest.raises(HelmError, match=r"image\.index\.tag is set, but image\.index\.repository is not; set both"):
        render("image.index.tag=v2")


def test_the_scratch_volume_is_a_folder_of_the_node_or_a_claim_of_the_pod() -> None:
    assert scratch() == {"name": "scratch", "emptyDir": {}}
    assert scratch("index.scratch.sizeLimit=30Gi")["emptyDir"] == {"sizeLimit": "30Gi"}
    claim = scratch("index.scratch.claim.size=30Gi", "index.scratch.claim.storageClassName=fast")["ephemeral"]
    spec = claim["volumeClaimTemplate"]["spec"]
    assert spec["resources"] == {"requests": {"storage": "30Gi"}}
    assert (spec["accessModes"], spec["storageClassName"]) == (["ReadWriteOnce"], "fast")
    plain = scratch("index.scratch.claim.size=1Gi")["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert "storageClassName" not in plain


def test_the_role_lets_the_gates_read_the_merges_only_where_there_is_an_index() -> None:
    def readable(*assignments: str) -> set[str]:
        return set(named(render(*assignments), "Role", "embedder-merge")["rules"][0]["resourceNames"])

    merges = {"embedder-merge", *(f"embedder-topup-{number}-merge" for number in range(1, TOP_UPS + 1))}
    assert readable(ENABLED) - readable() == merges
    assert "embedder-topup-77-merge" in readable(ENABLED, "topUp.enabled=true", "topUp.attempt=77")


def test_the_pod_is_placed_by_its_own_values() -> None:
    pod = pod_spec(
        index(
            *("index.nodeSelector.pool=memory", "index.tolerations[0].key=memory", "index.priorityClassName=low"),
            *("merge.nodeSelector.pool=cpu", "merge.priorityClassName=high"),
        )
    )
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "memory"}
    assert pod["tolerations"] == [{"key": "memory"}]
    assert pod["priorityClassName"] == "low"


def test_a_container_of_a_person_does_not_take_the_name_of_the_program() -> None:
    with pytest.raises(HelmError, match=r"index\.sidecars has a container named indexer"):
        render(ENABLED, "index.sidecars[0].name=indexer")


@EVERY_HELM
def test_an_upgrade_adds_an_index_to_a_run_and_later_upgrades_keep_it(program: str) -> None:
    with api_server(jobs()) as url:
        assert set(rendered_jobs(upgrade(url, program, ENABLED))) == {"worker", "merge", "index"}
    with api_server(jobs(ENABLED)) as url:
        assert upgrade(url, program, ENABLED) == template("--set", ENABLED, program=program)
        added = upgrade(url, program, ENABLED, "topUp.enabled=true")
        assert set(rendered_jobs(added)) == {"worker", "merge", "index", "topup", "topup-merge", "topup-index"}
        # What can change while a Job exists may.
        assert "backoffLimit: 7" in upgrade(url, program, ENABLED, "index.backoffLimit=7")


@EVERY_HELM
def test_an_upgrade_that_changes_the_pods_of_the_index_says_what_to_delete(program: str) -> None:
    with (
        api_server(jobs(ENABLED)) as url,
        pytest.raises(HelmError, match=r"pods of Job embedder-index, .*kubectl delete job embedder-index --namespace"),
    ):
        upgrade(url, program, ENABLED, "index.m=32")
    with (
        api_server(jobs(ENABLED, "topUp.enabled=true")) as url,
        pytest.raises(HelmError, match=r"pods of Job embedder-topup-1-index, .*topUp\.attempt"),
    ):
        upgrade(url, program, ENABLED, "index.m=32", "topUp.enabled=true")


@EVERY_HELM
def test_an_index_added_after_the_worker_job_was_deleted_brings_no_worker_back(program: str) -> None:
    live = [job for job in jobs(*TIMES_TO_LIVE) if job["metadata"]["name"] == "embedder-merge"]
    live[0]["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    with api_server(live) as url:
        found = rendered_jobs(upgrade(url, program, *TIMES_TO_LIVE, ENABLED))
    assert set(found) == {"merge", "index"}


def test_the_notes_say_that_an_index_is_built_or_how_to_add_one() -> None:
    said = notes(ENABLED)
    assert "Job clip-index builds Images_Embedded.bin beside the result when the merge is complete" in said
    assert "embedder logs --index -f --release clip -n team" in said
    assert "helm upgrade clip charts/ -n team --reuse-values --set index.enabled=true" in notes()
    assert "kubectl delete job clip-merge clip-index -n team" in notes(ENABLED, "merge.onFailedChunks=fail")
    assert "Job clip-topup-1-index then builds the index again" in notes(ENABLED, "topUp.enabled=true")
