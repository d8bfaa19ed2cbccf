"""The benchmarks: python -m benchmarks [--quick]. Prints ratios of two variants that run in turn.

Each figure is the median of several rounds. Seconds depend on the machine and on its other work. Ratios of variants
that run in turn depend on them much less.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import (
    bench_before,
    bench_ceiling,
    bench_checkpoints,
    bench_loop,
    bench_manifest,
    bench_pace,
    bench_worker,
)
from benchmarks.ratio import show
from benchmarks.rig import http_sources, rig, s3_source

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from benchmarks.processes import Program
    from benchmarks.rig import Rig, Source

OF_S3 = ("ceiling", "seed", "vit", "start", "memory", "checkpoints")
"""The benchmarks whose photos lie in an S3 server. It starts after the others, because it shares their cores."""

WITHOUT_PHOTOS = ("scale", "loop")

PARTS = (*WITHOUT_PHOTOS, "pace", "before", *OF_S3)
"""All benchmarks, in their order."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="do an eighth of the work, in one round, to check that everything runs"
    )
    parser.add_argument("--rounds", type=int, help="number of runs of each variant (default: 3, with --quick 1)")
    parser.add_argument("--only", choices=PARTS, help="run only this benchmark")
    parser.add_argument("--photos", type=Path, help="folder of images to use instead of generated photos")
    wanted = parser.parse_args()
    parts = {wanted.only} if wanted.only else set(PARTS)
    share = 8 if wanted.quick else 1
    rounds = wanted.rounds or (1 if wanted.quick else 3)
    before, missing = _earlier_tree() if "before" in parts else (None, "")
    if wanted.only and missing:
        sys.exit(missing)
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {datetime.now(UTC):%Y-%m-%d}, {rounds} rounds")
    if "scale" in parts:
        with tempfile.TemporaryDirectory(prefix="embedder-bench-") as folder:
            show(bench_manifest.scale(Path(folder), rows=9_000_000 // share, rounds=rounds))
    if "loop" in parts:
        show(bench_loop.loop(rows=40_000 // share, rounds=rounds))
    if not parts.issubset(WITHOUT_PHOTOS):
        _run_workers(parts, before, photos=wanted.photos, share=share, rounds=rounds)
    if missing:
        sys.exit(f"`before` is missing above: {missing}")


def _earlier_tree() -> tuple[Program | None, str]:
    """Return the program to compare with, or None and why there is none."""
    try:
        return bench_before.earlier_tree(), ""
    except bench_before.CannotCompare as error:
        return None, str(error)


def _run_workers(
    parts: AbstractSet[str], before: Program | None, *, photos: Path | None, share: int, rounds: int
) -> None:
    with rig(photo_count=1600 // share, source=photos) as stand:
        if before is not None:
            _compare_with(before, stand, share=share, rounds=rounds)
        if "pace" in parts:
            show(bench_pace.shared_site(stand, share=share))
            with http_sources(stand.photos) as sources:
                source = sources.by_scheme["http"]
                show(bench_pace.beside_a_slow_site(stand, source, rows=3200 // share, rounds=rounds))
        if not parts.isdisjoint(OF_S3):
            with s3_source(stand.photos) as source:
                _measure(parts, stand, source, share=share, rounds=rounds)


def _compare_with(before: Program, stand: Rig, *, share: int, rounds: int) -> None:
    with http_sources(stand.photos) as sources:
        show(bench_before.compare(stand, sources, before, rows=3200 // share, rounds=rounds))


def _measure(parts: AbstractSet[str], stand: Rig, source: Source, *, share: int, rounds: int) -> None:
    """Run those benchmarks among `parts` whose photos lie in an S3 server, which is `source`."""
    if "ceiling" in parts:
        with http_sources(stand.photos) as sources:
            # The public mirror is read over HTTPS. URLs of objects in S3 are signed by the worker, which is more work.
            by_name = {"HTTPS": sources.by_scheme["https"], "S3": source}
            show(bench_ceiling.ceiling(stand, by_name, rows=6400 // share, rounds=rounds))
    if "seed" in parts:
        show(bench_worker.everything_but_the_encoder(stand, source, rows=3200 // share, rounds=rounds))
    if "vit" in parts:
        show(bench_worker.vit_b_32(stand, source, rows=1024 // share, rounds=rounds))
    if "start" in parts:
        show(bench_worker.start_up(stand, source, rounds=rounds))
    if "memory" in parts:
        show(bench_worker.memory(stand, source, rows=10_000 // share, rounds=rounds))
    if "checkpoints" in parts:
        show(bench_checkpoints.checkpoints(stand, source, rows=9600 // share, rounds=rounds))


if __name__ == "__main__":
    main()
