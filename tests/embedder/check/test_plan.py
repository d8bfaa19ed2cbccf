"""Chunks, cores and memory to ask for, by what was found."""

from __future__ import annotations

from typing import Any

import pytest

from common.findings import Finding, GpuFacts, ImagesFacts, ManifestFacts, ModelFacts, Subject, Verdict
from embedder.check.plan import Plan, make_plan
from tests.charts.helm import render
from tests.charts.objects import containers, named

PIXELS = 178_956_970


def finding(facts: Any) -> Finding:  # noqa: ANN401 - any of the facts
    return Finding(subject=Subject.STORE, verdict=Verdict.OK, message="", facts=facts)


def manifest(rows: int) -> Finding:
    return finding(
        ManifestFacts(format="csv", bytes=1, rows=rows, is_exact=False, columns={}, sources=("url",), mean_url_bytes=70)
    )


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


def images(mean_bytes: float) -> Finding:
    return finding(
        ImagesFacts(
            sampled=20, good=20, reasons={}, sources=(), mean_bytes=mean_bytes, median_fetch_ms=20, mean_decode_ms=2.5
        )
    )


def gpus(allocatable: int, free: int | None) -> Finding:
    return finding(GpuFacts(resource="nvidia.com/gpu", nodes=1, allocatable=allocatable, free=free))


def plan(*findings: Finding, wants_gpu: bool = True) -> Plan:
    made = make_plan(findings, wants_gpu=wants_gpu, max_image_pixels=PIXELS)
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
    assert made.hours == pytest.approx(9_000_000 / 8_000 / 3600 / 10)


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


def test_allocatable_gpus_count_where_the_free_ones_are_not_known() -> None:
    assert plan(manifest(9_000_000), gpus(16, None)).parallelism == 16
    assert plan(manifest(60_000), gpus(16, None)).parallelism == 2
    assert plan(manifest(60_000), gpus(0, 0)).parallelism is None


def test_an_endless_list_has_no_more_chunks_than_kubernetes_allows() -> None:
    assert plan(manifest(80_000_000_000)).chunks == 100_000


def test_without_rows_there_is_nothing_to_plan() -> None:
    assert make_plan([model("cpu", 40)], wants_gpu=True, max_image_pixels=PIXELS) is None


def test_the_assignments_are_values_that_the_chart_accepts() -> None:
    made = plan(manifest(9_000_000), model("cpu", 40), gpus(4, 3), wants_gpu=False)
    for each in (made, plan(manifest(9_000_000), gpus(4, 3))):
        worker = named(render(*each.assignments), "Job", "embedder-worker")
        assert worker["spec"]["completions"] == each.chunks
