"""Measures the worker.

Its speed is compared with the seed's way and with its bare model, its start-up with the parts of it, and its memory
with that of a smaller chunk.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import torch

from benchmarks.processes import in_turn, median, median_cpu, median_seconds, part, run
from benchmarks.ratio import Ratio
from common.logs import CHUNK_PROGRESS, parse_line
from worker.encode.encoder import choose_batch_size, choose_device
from worker.memory import WORKER_MALLOC

if TYPE_CHECKING:
    from benchmarks.processes import Cost
    from benchmarks.rig import Rig, Source

BATCH_SIZE = choose_batch_size(choose_device("auto"), threads=torch.get_num_threads())
"""Number of images in a batch of the worker on this machine."""


def everything_but_the_encoder(rig: Rig, source: Source, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare the worker with the seed's way.

    The time of both includes their start. A run of few rows measures the start, and its time is subtracted.
    """
    costs = in_turn(
        {
            "seed": lambda: rig.run_seed(source, rows, rig.tiny_model),
            "worker": lambda: rig.run_worker(source, rows, rig.tiny_model),
            "seed starts": lambda: rig.run_seed(source, BATCH_SIZE, rig.tiny_model),
            "worker starts": lambda: rig.run_worker(source, BATCH_SIZE, rig.tiny_model),
        },
        rounds,
    )
    all_seconds = {way: median_seconds(costs[way]) for way in ("seed", "worker")}
    seconds = {way: all_seconds[way] - median_seconds(costs[f"{way} starts"]) for way in all_seconds}
    cpu = {way: median_cpu(costs[way]) - median_cpu(costs[f"{way} starts"]) for way in all_seconds}
    more = rows - BATCH_SIZE
    rates = ", ".join(f"{way} {more / seconds[way]:.0f} images/s" for way in seconds)
    per_image = ", ".join(f"{way} {cpu[way] / more * 1000:.1f} ms an image" for way in cpu)
    return [
        Ratio("images/s, worker over seed", seconds["seed"] / seconds["worker"], ">= 4.5", rates),
        Ratio("CPU an image, worker over seed", cpu["worker"] / cpu["seed"], "<= 0.25", per_image),
        Ratio(
            "images/s with the start, worker over seed",
            all_seconds["seed"] / all_seconds["worker"],
            "",
            f"{rows} images: seed {all_seconds['seed']:.0f} s, worker {all_seconds['worker']:.0f} s",
        ),
    ]


def vit_b_32(rig: Rig, source: Source, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare the worker with the limit that its encoder and its decoder set when they share the cores."""
    few = 2 * BATCH_SIZE
    numbers = in_turn(
        {
            "encode": lambda: part("encode", rig.vit_b_32, environment={"OMP_WAIT_POLICY": "PASSIVE"} | WORKER_MALLOC),
            "decode": lambda: part("decode", rig.photos, environment={}),
            "few": lambda: rig.run_worker(source, few, rig.vit_b_32).seconds,
            "many": lambda: rig.run_worker(source, few + rows, rig.vit_b_32).seconds,
        },
        rounds,
    )
    encode, decode, few_seconds, many_seconds = (median(numbers[name]) for name in ("encode", "decode", "few", "many"))
    limit = 1 / (1 / encode + 1 / decode)
    worker = rows / (many_seconds - few_seconds)
    detail = f"model {encode:.1f}, decoding {decode:.0f}, limit {limit:.1f}, worker {worker:.1f} images/s"
    return [
        Ratio("ViT-B/32, worker over limit", worker / limit, ">= 0.95", detail),
        Ratio("ViT-B/32, worker over bare model", worker / encode, "", detail),
    ]


def start_up(rig: Rig, source: Source, *, rounds: int) -> list[Ratio]:
    """Compare a worker's time to its first batch with the times of the two parts that run side by side.

    One part loads the model, the other fetches and decodes the images.
    """
    manifest = rig.manifest(source, BATCH_SIZE)
    seconds = in_turn(
        {
            "worker": lambda: _first_batch(rig.run_worker(source, BATCH_SIZE, rig.tiny_model)),
            "load": lambda: _part_seconds(source, "load", rig.tiny_model),
            "first batch": lambda: _part_seconds(source, "first-batch", manifest, BATCH_SIZE),
        },
        rounds,
    )
    worker, load, first_batch = (median(seconds[name]) for name in ("worker", "load", "first batch"))
    detail = f"worker {worker:.2f} s; import and load {load:.2f} s, first batch fetched and decoded {first_batch:.2f} s"
    return [Ratio("start-up over its longest part", worker / max(load, first_batch), "<= 1.15", detail)]


def memory(rig: Rig, source: Source, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare the peak memory of a chunk with the peak memory of a chunk that is ten times smaller."""
    peaks = in_turn(
        {
            "small": lambda: rig.run_worker(source, rows // 10, rig.tiny_model).peak_megabytes,
            "large": lambda: rig.run_worker(source, rows, rig.tiny_model).peak_megabytes,
        },
        rounds,
    )
    small, large = median(peaks["small"]), median(peaks["large"])
    detail = f"{rows // 10} images {small:.0f} MB, {rows} images {large:.0f} MB"
    return [Ratio("memory, MB more for ten times the images", large - small, "<= 25", detail)]


def _part_seconds(source: Source, *arguments: object) -> float:
    """Return how long a part takes in a process of its own, in seconds."""
    return run(["benchmarks.parts", *map(str, arguments)], source.environment).seconds


def _first_batch(cost: Cost) -> float:
    """Return the time from the start of a worker until its only batch is encoded, in seconds."""
    lines = [line for text in cost.output.splitlines() if (line := parse_line(text)) and line.event == CHUNK_PROGRESS]
    return datetime.fromisoformat(lines[0].time).timestamp() - cost.started
