"""Chunks, cores and memory to ask for, by what was found."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from common.findings import (
    Finding,
    GpuFacts,
    ImagesFacts,
    ManifestFacts,
    ModelFacts,
    RunFacts,
    StoreFacts,
    Subject,
    Verdict,
)
from embedder.check.plan import Plan, make_plan
from embedder.check.screen import as_screen
from tests.charts.helm import render
from tests.charts.objects import containers, named

PIXELS = 178_956_970


def finding(facts: Any) -> Finding:  # noqa: ANN401 - any of the facts
    return Finding(subject=Subject.STORE, verdict=Verdict.OK, message="", facts=facts)


def manifest(rows: int, **facts: Any) -> Finding:  # noqa: ANN401 - the fields' own types
    given: dict[str, Any] = {
        "format": "csv",
        "bytes": 1,
        "is_exact": False,
        "columns": {},
        "sources": ("url",),
        "mean_url_bytes": 70,
    }
    return finding(ManifestFacts(rows=rows, **(given | facts)))


def model(device: str, rate: float, *, batch_size: int = 320) -> Finding:
    return finding(
        ModelFacts(
            model="openai/clip-vit-base-patch32",
            revision="",
            device=device,
            dtype="float16",
            batch_size=batch_size,
            images_per_second=rate,
            image_size=224,
            dimensions=512,
        )
    )


def images(mean_bytes: float, *, is_held_back: bool = False) -> Finding:
    return finding(
        ImagesFacts(
            sampled=20,
            good=20,
            reasons={},
            sources=(),
            mean_bytes=mean_bytes,
            median_fetch_ms=20,
            mean_decode_ms=2.5,
            is_held_back=is_held_back,
        )
    )


def gpus(allocatable: int, free: int | None) -> Finding:
    return finding(GpuFacts(resource="nvidia.com/gpu", nodes=1, allocatable=allocatable, free=free))


def run(chunk_count: int, *, in_store: int = 0, is_there: bool = True, is_finished: bool = False) -> Finding:
    return finding(RunFacts(chunk_count=chunk_count, in_store=in_store, is_there=is_there, is_finished=is_finished))


def screen(*findings: Finding, made: Plan | None = None) -> str:
    console = Console(width=160, highlight=False)
    with console.capture() as captured:
        console.print(as_screen(findings, made, []))
    return captured.get()


def plan(*findings: Finding, wants_gpu: bool = True, chunk_count: int | None = None) -> Plan:
    made = make_plan(findings, wants_gpu=wants_gpu, max_image_pixels=PIXELS, chunk_count=chunk_count)
    assert made is not None
    return made


def test_nine_million_rows_on_a_usual_gpu_ask_for_what_the_chart_asks_by_default() -> None:
    made = plan(manifest(9_000_000))
    assert (made.chunks, made.images_per_chunk, made.cores, made.memory_gib) == (180, 50_000, 6, 6)
    assert not made.is_measured
    default = containers(named(render(), "Job", "embedder-worker"))[0]["resources"]["requests"]
    assert default == {"cpu": str(made.cores), "memory": f"{made.memory_gib}Gi"}


def test_a_measured_gpu_decides_the_cores_and_the_duration() -> None:
    made = plan(manifest(9_000_000), model("cuda:0 (NVIDIA A100)", 8_000), images(230_000), gpus(16, 10))
    assert made.is_measured
    assert (made.cores, made.parallelism) == (21, 10)
    # 18 rounds of 10 pods, each of which starts for 15 s.
    assert made.hours == pytest.approx(18 * (15 + 50_000 / 8_000) / 3600)


def test_larger_images_take_more_cores() -> None:
    small, large = (plan(manifest(1_000), images(size)) for size in (60_000, 690_000))
    assert (small.cores, large.cores) == (6, 16)


def test_no_worker_is_asked_to_have_more_cores_than_nodes_have() -> None:
    made = plan(manifest(1_000_000), model("cuda:0 (NVIDIA H100)", 50_000), images(690_000))
    assert made.cores == 64
    assert made.images_per_second == pytest.approx(64 * 400 / 3)


def test_without_a_gpu_chunks_are_smaller_and_the_chart_is_told() -> None:
    made = plan(manifest(9_000_000), model("cpu", 40), wants_gpu=False)
    assert made.chunks == 900
    assert "gpu.count=0" in made.assignments
    assert made.here is not None
    assert made.here.chunks == 900


def test_the_rate_of_a_cpu_is_not_taken_for_that_of_the_workers_gpu() -> None:
    made = plan(manifest(9_000_000), model("cpu", 40, batch_size=64))
    assert not made.is_measured
    assert made.images_per_second == 2_000
    assert made.here is not None
    assert made.here.images_per_second == 40


def test_where_a_site_refuses_requests_nothing_speaks_for_more_workers() -> None:
    found = [manifest(9_000_000), model("cpu", 40), gpus(16, 10)]
    free, held = (plan(*found, images(60_000, is_held_back=each)) for each in (False, True))
    assert "worker.parallelism=10" in free.assignments
    assert not any("parallelism" in each for each in held.assignments)
    assert "More workers do not make the site faster." in screen(made=held)
    assert "More workers" not in screen(made=free)


def test_allocatable_gpus_count_where_the_free_ones_are_not_known() -> None:
    assert plan(manifest(9_000_000), gpus(16, None)).parallelism == 16
    assert plan(manifest(60_000), gpus(16, None)).parallelism == 2
    assert plan(manifest(60_000), gpus(0, 0)).parallelism is None


def test_the_number_of_chunks_that_was_asked_for_is_kept_and_the_suggestion_is_beside_it() -> None:
    made = plan(manifest(10), model("cpu", 40), chunk_count=4)
    assert (made.chunks, made.chunks_by, made.suggested_chunks) == (4, "user", 1)
    assert made.assignments[0] == "chunks.count=4"
    assert made.here is not None
    assert made.here.chunks == 4
    assert "the check would suggest 1 chunk." in screen(manifest(10), made=made)
    assert "would suggest" not in screen(made=plan(manifest(50_000), chunk_count=1))
    near = plan(manifest(9_000_000), chunk_count=200)
    assert (near.chunks, near.is_suggestion_much_different) == (200, False)


def test_the_run_in_the_store_decides_the_number_of_chunks() -> None:
    made = plan(manifest(10), run(4, in_store=1), chunk_count=None)
    assert (made.chunks, made.chunks_by) == (4, "store")
    assert plan(manifest(10), run(4), chunk_count=2).chunks == 4
    assert plan(manifest(10), run(2, is_there=False), chunk_count=2).chunks_by == "user"


def test_every_chunk_takes_its_start_up_and_a_chunk_in_the_store_no_time() -> None:
    rates = model("cpu", 40)
    every, last = (plan(manifest(4_000), rates, run(4, in_store=there), wants_gpu=False) for there in (0, 3))
    assert every.here is not None
    assert last.here is not None
    assert every.here.hours == pytest.approx(4 * (10 + 1_000 / 40) / 3600)
    assert last.here.hours == pytest.approx((10 + 1_000 / 40) / 3600)
    assert every.hours == pytest.approx(4 * (15 + 1_000 / 40) / 3600)


@pytest.mark.parametrize("there", [run(4, is_finished=True), run(4, in_store=4)])
def test_a_finished_run_takes_no_time_to_name(there: Finding) -> None:
    made = plan(manifest(10), model("cpu", 40), there)
    assert made.hours is None
    assert made.here is not None
    assert made.here.hours is None
    assert "takes" not in screen(made=made)
    assert "nothing is left to compute" in screen(made=made)


def test_figures_from_an_estimate_are_said_to_be_about() -> None:
    assert "About 900,647 rows in 19 chunks" in screen(made=plan(manifest(900_647)))


def test_json_has_no_digits_that_mean_nothing() -> None:
    figures = plan(manifest(10), model("cpu", 1 / 3)).as_json()
    assert figures["hours"] == round(figures["hours"], 4)  # type: ignore[call-overload]
    assert figures["here"]["images_per_second"] == 0.3333  # type: ignore[index]


def test_the_last_line_names_every_subject_of_the_exit_code() -> None:
    faults = {Subject.MODEL: 78, Subject.IMAGES: 65, Subject.STORE: 78, Subject.MANIFEST: 78}
    findings = [
        Finding(subject=subject, verdict=Verdict.FAULT, message="wrong", exit_code=code)
        for subject, code in faults.items()
    ]
    assert "exit code 78, because of store, manifest and model." in screen(*findings)


def test_a_folder_has_no_list_of_abilities() -> None:
    facts = StoreFacts(abilities={"store": "folder", "batch delete": "no", "encryption": "none reported"})
    assert "batch delete" not in screen(finding(facts))
    assert "batch delete" in screen(finding(StoreFacts(abilities={"store": "AmazonS3", "batch delete": "no"})))


def test_an_endless_list_has_no_more_chunks_than_kubernetes_allows() -> None:
    assert plan(manifest(80_000_000_000)).chunks == 100_000


def test_without_rows_there_is_nothing_to_plan() -> None:
    assert make_plan([model("cpu", 40)], wants_gpu=True, max_image_pixels=PIXELS) is None


def test_the_assignments_are_values_that_the_chart_accepts() -> None:
    made = plan(manifest(9_000_000), model("cpu", 40), gpus(4, 3), wants_gpu=False)
    for each in (made, plan(manifest(9_000_000), gpus(4, 3))):
        worker = named(render(*each.assignments), "Job", "embedder-worker")
        assert worker["spec"]["completions"] == each.chunks


def test_no_more_chunks_than_shards_are_suggested() -> None:
    divided = make_plan([manifest(10_000_000)], wants_gpu=True, max_image_pixels=PIXELS)
    whole = make_plan([manifest(10_000_000, shards=12)], wants_gpu=True, max_image_pixels=PIXELS)
    assert divided is not None
    assert whole is not None
    assert divided.suggested_chunks > 12
    assert (whole.suggested_chunks, whole.chunks) == (12, 12)
