"""Measures what checkpoints cost: a chunk with them over the same chunk without them, in time and in CPU."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from benchmarks.processes import in_turn, median_cpu, median_seconds
from benchmarks.ratio import Ratio
from benchmarks.rig import BUCKET
from common.logs import parse_line

if TYPE_CHECKING:
    from benchmarks.processes import Cost
    from benchmarks.rig import Rig, Source

CHECKPOINT_SECONDS = 3
"""Time between two checkpoints in seconds. By default it is 40 times longer, so that this measures more than their
usual cost: each row costs the same, and each checkpoint costs its requests."""


def checkpoints(rig: Rig, source: Source, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare a chunk with checkpoints with one without them. Both are stored in the S3 server of the photos."""

    def embed(seconds: float) -> Cost:
        settings = {"checkpoint_seconds": seconds, "run_uri": f"s3://{BUCKET}/run-{uuid.uuid4().hex}"}
        return rig.run_worker(source, rows, rig.tiny_model, settings=settings)

    costs = in_turn({"without": lambda: embed(0), "with": lambda: embed(CHECKPOINT_SECONDS)}, rounds)
    lines = [parse_line(text) for text in costs["with"][-1].output.splitlines()]
    written = [line for line in lines if line is not None and line.event == "checkpoint"]
    detail = f"{rows} images, {len(written)} checkpoints, one in {CHECKPOINT_SECONDS} s (default 120 s)"
    seconds = {way: median_seconds(costs[way]) for way in costs}
    cpu = {way: median_cpu(costs[way]) for way in costs}
    return [
        Ratio(
            "time of a chunk, with checkpoints over without",
            seconds["with"] / seconds["without"],
            "<= 1.02",
            f"{seconds['with']:.1f} and {seconds['without']:.1f} s; {detail}",
        ),
        Ratio(
            "CPU of a chunk, with checkpoints over without",
            cpu["with"] / cpu["without"],
            "<= 1.02",
            f"{cpu['with']:.1f} and {cpu['without']:.1f} s; {detail}",
        ),
    ]
