"""Measures the worker.

Its speed is compared with the seed's way and with its bare model, its start-up with the parts of it, and its memory
with that of a smaller chunk.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks.rig import in_turn, median, part, run
from common.logs import CHUNK_PROGRESS, parse_line
from worker.encode.encoder import choose_batch_size, choose_device
from worker.memory import WORKER_MALLOC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.rig import Cost, Rig

BATCH_SIZE = choose_batch_size(choose_device("auto"), threads=torch.get_num_threads())
"""Number of images in a batch of the worker on this machine."""


class Ratio(NamedTuple):
    what: str
    value: float
    goal: str
    detail: str


def everything_but_the_encoder(rig: Rig, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare the worker with the seed's way.

    The time of both includes their start. A run of few rows measures the start, and its time is subtracted.
    """
    costs = in_turn(
        {
            "seed": lambda: rig.run_seed(rows, rig.tiny_model),
            "worker": lambda: rig.run_worker(rows, rig.tiny_model),
            "seed starts": lambda: rig.run_seed(BATCH_SIZE, rig.tiny_model),
            "worker starts": lambda: rig.run_worker(BATCH_SIZE, rig.tiny_model),
        },
        rounds,
    )
    seconds = {way: _seconds(costs[way]) - _seconds(costs[f"{way} starts"]) for way in ("seed", "worker")}
    cpu = {way: _cpu(costs[way]) - _cpu(costs[f"{way} starts"]) for way in ("seed", "worker")}
    more = rows - BATCH_SIZE
    rates = ", ".join(f"{way} {more / seconds[way]:.0f} images/s" for way in seconds)
    per_image = ", ".join(f"{way} {cpu[way] / more * 1000:.1f} ms an image" for way in cpu)
    return [
        Ratio("images/s, worker over seed", seconds["seed"] / seconds["worker"], ">= 4.5", rates),
        Ratio("CPU an image, worker over seed", cpu["worker"] / cpu["seed"], "<= 0.25", per_image),
        Ratio(
            "images/s with the start, worker over seed",
            _seconds(costs["seed"]) / _seconds(costs["worker"]),
            "",
            f"{rows} images: seed {_seconds(costs['seed']):.0f} s, worker {_seconds(costs['worker']):.0f} s",
        ),
    ]


def vit_b_32(rig: Rig, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare the worker with the limit that its encoder and its decoder set when they share the cores."""
    few = 2 * BATCH_SIZE
    numbers = in_turn(
        {
            "encode": lambda: part("encode", rig.vit_b_32, environment={"OMP_WAIT_POLICY": "PASSIVE"} | WORKER_MALLOC),
            "decode": lambda: part("decode", rig.folder / "photos", environment={}),
            "few": lambda: rig.run_worker(few, rig.vit_b_32).seconds,
            "many": lambda: rig.run_worker(few + rows, rig.vit_b_32).seconds,
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


def start_up(rig: Rig, *, rounds: int) -> list[Ratio]:
    """Compare a worker's time to its first batch with the times of the two parts that run side by side.

    One part loads the model, the other fetches and decodes the images.
    """
    manifest = rig.folder / f"{BATCH_SIZE}.txt"
    seconds = in_turn(
        {
            "worker": lambda: _first_batch(rig.run_worker(BATCH_SIZE, rig.tiny_model)),
            "load": lambda: _part_seconds(rig, "load", rig.tiny_model),
            "first batch": lambda: _part_seconds(rig, "first-batch", manifest, BATCH_SIZE),
        },
        rounds,
    )
    worker, load, first_batch = (median(seconds[name]) for name in ("worker", "load", "first batch"))
    detail = f"worker {worker:.2f} s; import and load {load:.2f} s, first batch fetched and decoded {first_batch:.2f} s"
    return [Ratio("start-up over its longest part", worker / max(load, first_batch), "<= 1.15", detail)]


def memory(rig: Rig, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare the peak memory of a chunk with the peak memory of a chunk that is ten times smaller."""
    peaks = in_turn(
        {
            "small": lambda: rig.run_worker(rows // 10, rig.tiny_model).peak_megabytes,
            "large": lambda: rig.run_worker(rows, rig.tiny_model).peak_megabytes,
        },
        rounds,
    )
    small, large = median(peaks["small"]), median(peaks["large"])
    detail = f"{rows // 10} images {small:.0f} MB, {rows} images {large:.0f} MB"
    return [Ratio("memory, MB more for ten times the images", large - small, "<= 25", detail)]


def _part_seconds(rig: Rig, *arguments: object) -> float:
    """Return how long a part takes in a process of its own, in seconds."""
    return run(["benchmarks.parts", *map(str, arguments)], rig.environment).seconds


def _first_batch(cost: Cost) -> float:
    """Return the time from the start of a worker until its only batch is encoded, in seconds."""
    lines = [line for text in cost.output.splitlines() if (line := parse_line(text)) and line.event == CHUNK_PROGRESS]
    return datetime.fromisoformat(lines[0].time).timestamp() - cost.started


def _seconds(costs: Sequence[Cost]) -> float:
    return median([cost.seconds for cost in costs])


def _cpu(costs: Sequence[Cost]) -> float:
    return median([cost.cpu_seconds for cost in costs])
