"""A rerun by rerun.chunks: a Job that computes some chunks again, under their own numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.indexes import format_indexes, parse_indexes
from tests.charts.helm import HelmError, render, value_sets
from tests.charts.objects import (
    containers,
    environment,
    of_kind,
)

if TYPE_CHECKING:
    from pathlib import Path

EVERY_SET = pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)


def test_a_rerun_is_the_worker_job_for_some_chunks() -> None:
    chunks = "3,7-9,899"
    objects = render(
        "rerun.chunks=3\\,7-9\\,899",
        "rerun.memory=16Gi",
        "rerun.parallelism=2",
        "rerun.extraEnv[0].name=EMBEDDER_FETCH_CONCURRENCY",
        "rerun.extraEnv[0].value=8",
        "worker.fetchConcurrency=32",
    )
    worker, rerun = (job for job in of_kind(objects, "Job") if "merge" not in job["metadata"]["name"])
    if "rerun" in worker["metadata"]["name"]:
        worker, rerun = rerun, worker
    assert rerun["spec"].pop("completions") == len(parse_indexes(chunks))
    assert rerun["spec"].pop("parallelism") == 2
    del worker["spec"]["completions"], worker["spec"]["parallelism"]
    ours, theirs = containers(rerun)[0], containers(worker)[0]
    variables = environment(ours)
    assert variables.pop("EMBEDDER_CHUNK_INDEXES") == chunks
    assert variables.pop("EMBEDDER_FETCH_CONCURRENCY") == "8"
    expected = environment(theirs)
    assert expected.pop("EMBEDDER_FETCH_CONCURRENCY") == "32"
    assert variables == expected
    assert ours["resources"]["requests"].pop("memory") == ours["resources"]["limits"].pop("memory") == "16Gi"
    assert theirs["resources"]["requests"].pop("memory") == theirs["resources"]["limits"].pop("memory") == "6Gi"
    ours["env"] = theirs["env"]
    rerun["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] = "worker"
    assert rerun["spec"] == worker["spec"]


@pytest.mark.parametrize("chunks", ["0", "7", "3-5", "0-899", "0,2,4-6,899"])
def test_a_rerun_has_one_pod_for_each_chunk_of_its_list(chunks: str) -> None:
    jobs = of_kind(render("rerun.chunks={}".format(chunks.replace(",", "\\,"))), "Job")
    (rerun,) = [job for job in jobs if job["metadata"]["labels"]["app.kubernetes.io/component"] == "rerun"]
    assert rerun["spec"]["completions"] == len(parse_indexes(chunks))
    assert environment(containers(rerun)[0])["EMBEDDER_CHUNK_INDEXES"] == chunks


def test_different_reruns_have_different_names_and_the_same_rerun_keeps_its_name() -> None:
    def name(*assignments: str) -> str:
        (found,) = [
            job["metadata"]["name"]
            for job in of_kind(render(*assignments), "Job")
            if job["metadata"]["labels"]["app.kubernetes.io/component"] == "rerun"
        ]
        return str(found)

    names = [
        name("rerun.chunks=3"),
        name("rerun.chunks=4"),
        name("rerun.chunks=3", "rerun.attempt=2"),
        name("rerun.chunks=3", "rerun.memory=16Gi"),
    ]
    assert len(set(names)) == len(names)
    assert name("rerun.chunks=3", "rerun.parallelism=1") == names[0]
    assert all(each.startswith("embedder-rerun-") for each in names)


@pytest.mark.parametrize(
    "chunks", ["3;7", "a", "7-", "-7", "3,,4", "9-7", "3,3", "7,3", "08", "3-5,5", "900", "890-900", "3, 7"]
)
def test_a_wrong_list_of_chunks_is_refused(chunks: str) -> None:
    with pytest.raises(HelmError, match=r"rerun\.chunks"):
        render("rerun.chunks={}".format(chunks.replace(",", "\\,")))


@pytest.mark.parametrize(("chunks", "limit"), [("3,7-9", None), ("0-19", 5)])
def test_a_rerun_is_not_given_a_limit_of_failed_chunks_that_kubernetes_refuses(chunks: str, limit: int | None) -> None:
    jobs = of_kind(render("worker.maxFailedIndexes=5", "rerun.chunks={}".format(chunks.replace(",", "\\,"))), "Job")
    by_component = {job["metadata"]["labels"]["app.kubernetes.io/component"]: job["spec"] for job in jobs}
    assert by_component["rerun"].get("maxFailedIndexes") == limit
    assert by_component["worker"]["maxFailedIndexes"] == 5


def test_a_limit_above_the_number_of_chunks_is_no_limit() -> None:
    jobs = of_kind(render("worker.maxFailedIndexes=1000", "chunks.count=900"), "Job")
    assert not any("maxFailedIndexes" in job["spec"] for job in jobs)


def test_a_list_that_does_not_fit_into_a_variable_is_refused_with_the_remedy(tmp_path: Path) -> None:
    def values(count: int) -> Path:
        path = tmp_path / f"{count}.yaml"
        path.write_text(f'chunks: {{count: 100000}}\nrerun: {{chunks: "{format_indexes(range(0, 2 * count, 2))}"}}\n')
        return path

    jobs = of_kind(render(files=(values(10_000),)), "Job")
    assert 10_000 in [job["spec"].get("completions") for job in jobs]
    with pytest.raises(HelmError, match=r"rerun\.chunks has 294444 characters, .*use `embedder rerun`"):
        render(files=(values(50_000),))
