"""The benchmarks: python -m benchmarks [--quick]. Prints ratios of two variants that run in turn.

Each figure is the median of several rounds. Seconds depend on the machine and on its other work. Ratios of variants
that run in turn depend on them much less.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import bench_manifest, bench_worker
from benchmarks.rig import rig

if TYPE_CHECKING:
    from benchmarks.bench_worker import Ratio


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="do an eighth of the work, in one round, to check that everything runs"
    )
    parser.add_argument("--rounds", type=int, help="number of runs of each variant (default: 3, with --quick 1)")
    parser.add_argument("--only", choices=["seed", "vit", "start", "scale", "memory"], help="run only this benchmark")
    parser.add_argument("--photos", type=Path, help="folder of images to use instead of generated photos")
    wanted = parser.parse_args()
    share = 8 if wanted.quick else 1
    rounds = wanted.rounds or (1 if wanted.quick else 3)
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {datetime.now(UTC):%Y-%m-%d}, {rounds} rounds")

    def is_wanted(name: str) -> bool:
        return wanted.only in {None, name}

    if is_wanted("scale"):
        with tempfile.TemporaryDirectory(prefix="embedder-bench-") as folder:
            _show(bench_manifest.scale(Path(folder), rows=9_000_000 // share, rounds=rounds))
    if wanted.only == "scale":
        return
    with rig(photo_count=1600 // share, source=wanted.photos) as stand:
        if is_wanted("seed"):
            _show(bench_worker.everything_but_the_encoder(stand, rows=3200 // share, rounds=rounds))
        if is_wanted("vit"):
            _show(bench_worker.vit_b_32(stand, rows=1024 // share, rounds=rounds))
        if is_wanted("start"):
            _show(bench_worker.start_up(stand, rounds=rounds))
        if is_wanted("memory"):
            _show(bench_worker.memory(stand, rows=10_000 // share, rounds=rounds))


def _show(ratios: list[Ratio]) -> None:
    for ratio in ratios:
        print(f"{ratio.what:46}{ratio.value:8.2f}  {ratio.goal:9}  {ratio.detail}", flush=True)


if __name__ == "__main__":
    main()
