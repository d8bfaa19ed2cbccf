"""Measures a worker beside a GPU: python -m benchmarks.bench_gpu. It needs no network, and 4 minutes at most.

It prints images/s of the bare model, of the worker's encoder, of decoding alone, and of the whole worker, which fetches
photos from a server on this machine. The model is a ViT-B/32 with random weights, which takes the same time as the
trained one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import transformers

from benchmarks import bench_ceiling
from benchmarks.photos import make_photos
from benchmarks.processes import run
from benchmarks.ratio import Ratio, show
from benchmarks.rig import Rig, http_sources
from common.logs import CHUNK_PROGRESS, parse_line
from worker.encode.encoder import choose_batch_size
from worker.memory import DECODER_MALLOC, WORKER_MALLOC

if TYPE_CHECKING:
    from benchmarks.processes import Cost
    from benchmarks.rig import Source

LIMIT_SECONDS = 240
"""Time of the whole call in seconds. What would take longer is left out, the less important part first."""

PROGRESS_SECONDS = 0.25
"""Time in seconds between two lines of a worker's progress, from which its speed is read."""

START_SHARE = 0.1
"""Share of a worker's images that are not counted. They include those that waited in buffers for the model to load."""


class Size(NamedTuple):
    photos: int
    batches: tuple[int, ...]
    """Numbers of images in a batch of the model and of the encoder."""
    model_seconds: float
    decode_seconds: float
    worker_seconds: float
    """Time in seconds of each figure, without the start."""
    most_worker_rows: int


FULL = Size(
    photos=256,
    batches=(64, 128, 256, 512, 1024),
    model_seconds=1,
    decode_seconds=2,
    worker_seconds=6,
    most_worker_rows=200_000,
)
QUICK = Size(photos=32, batches=(8, 16), model_seconds=0.1, decode_seconds=0.5, worker_seconds=2, most_worker_rows=64)

DECODERS = (16, 8, 4, 2)
"""Values of EMBEDDER_DECODE_THREADS, as far as there are cores. The largest first, since the goal is about it."""


class _Call:
    """The machine, the photos and the time that is left."""

    def __init__(self, folder: Path, device: str, size: Size, started: float) -> None:
        self.size = size
        self.device = device
        default = choose_batch_size(torch.device(device, 0), threads=torch.get_num_threads())
        self.batches = sorted({*size.batches, default} if device == "cuda" else size.batches)
        """Numbers of images in a batch of the model and of the encoder, the worker's own number among them."""
        self._started = started
        self.rig = Rig(folder, folder / "photos", folder / "vit-b-32", folder / "vit-b-32")
        self.rig.photos.mkdir()
        make_photos(self.rig.photos, size.photos)
        torch.manual_seed(0)
        transformers.utils.logging.disable_progress_bar()
        config = transformers.CLIPVisionConfig(projection_dim=512)
        transformers.CLIPVisionModelWithProjection(config).save_pretrained(self.rig.vit_b_32)

    @property
    def seconds_left(self) -> float:
        return LIMIT_SECONDS - (time.monotonic() - self._started)

    def part(self, *arguments: object, environment: dict[str, str]) -> Any:  # noqa: ANN401 - what the part prints
        """Return what a command of `benchmarks.gpu_parts` prints last."""
        cost = run(["benchmarks.gpu_parts", *map(str, arguments)], environment)
        return json.loads(cost.output.splitlines()[-1])


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="`cpu` only checks that all runs")
    parser.add_argument("--quick", action="store_true", help="do little work, to check that all runs")
    wanted = parser.parse_args()
    if wanted.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench-gpu measures a worker beside a GPU, and no CUDA device is visible here.")
    print(_machine(wanted.device), flush=True)
    with tempfile.TemporaryDirectory(prefix="embedder-bench-") as folder:
        call = _Call(Path(folder), wanted.device, QUICK if wanted.quick else FULL, started)
        encoder = _model_and_encoder(call)
        _whole_worker(call, encoder)
    print(f"took {time.monotonic() - started:.0f} s")


def _machine(device: str) -> str:
    """Return what is measured on, in one line."""
    facts = [platform.machine(), f"{len(os.sched_getaffinity(0))} cores", f"Python {platform.python_version()}"]
    facts += [f"torch {torch.__version__}", f"transformers {transformers.__version__}", f"{datetime.now(UTC):%Y-%m-%d}"]
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts = [f"{card.name} ({card.total_memory / 2**30:.0f} GiB)", f"driver {_driver()}", *facts]
    return ", ".join(facts)


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def _model_and_encoder(call: _Call) -> float:
    """Print images/s of the bare model and of the encoder by batch size. Return the encoder's best."""
    arguments = (call.rig.vit_b_32, call.device, call.size.model_seconds, *call.batches)
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | WORKER_MALLOC
    model = call.part("model", *arguments, environment=environment)
    encoder: dict[str, float] = call.part("encoder", *arguments, environment=environment)
    columns = {"model, eager": model["eager"], "model, captured": model["captured"], "encoder": encoder}
    print(f"\n{'images/s, batch of':>20}" + "".join(f"{name:>18}" for name in columns))
    for size in map(str, call.batches):
        figures = (f"{found[size]:,.0f}" if size in found else "-" for found in columns.values())
        print(f"{size:>20}" + "".join(f"{figure:>18}" for figure in figures), flush=True)
    if not encoder:
        sys.exit("the encoder has no room for the smallest batch on this device")
    return max(encoder.values())


def _whole_worker(call: _Call, encoder: float) -> None:
    """Print images/s of decoding alone and of the whole worker by the number of decoders."""
    cores = len(os.sched_getaffinity(0))
    counts = [count for count in DECODERS if count <= cores] or [1]
    decode: dict[str, float] = call.part(
        *("decode", call.rig.photos, call.size.decode_seconds, *counts),
        environment={"OMP_NUM_THREADS": "1"} | DECODER_MALLOC,
    )
    print(f"\n{'images/s, decoders':>20}{'decoding alone':>18}{'whole worker':>18}{'over the smaller':>18}")
    longest = 0.0
    with http_sources(call.rig.photos) as sources:
        source = sources.by_scheme["http"]
        costs: dict[int, Cost] = {}
        lines = {}
        for count in counts:
            if costs and call.seconds_left < 1.2 * longest:
                print(f"{count:>20}{decode[str(count)]:>18,.0f}{'no time left':>18}", flush=True)
                continue
            smaller = min(encoder, decode[str(count)])
            rows = min(int(smaller * call.size.worker_seconds), call.size.most_worker_rows)
            costs[count] = cost = _run_worker(call, source, rows, count)
            longest = max(longest, cost.seconds)
            rate = _images_per_second(cost, rows)
            lines[count] = (rate, smaller, rows)
            print(f"{count:>20}{decode[str(count)]:>18,.0f}{rate:>18,.0f}{rate / smaller:>18.2f}", flush=True)
        most = counts[0]
        rate, smaller, rows = lines[most]
        print()
        show(
            [
                Ratio(
                    f"whole worker over its slower half, {most} decoders",
                    rate / smaller,
                    ">= 0.7",
                    f"encoder {encoder:,.0f}, decoding {decode[str(most)]:,.0f}, worker {rate:,.0f} images/s; the goal "
                    "is for 16 cores and an H100",
                )
            ]
        )
        if call.seconds_left > longest:
            few = max(rows // 10, 1)
            start = _run_worker(call, source, few, most)
            shares = bench_ceiling.shares_of([costs[most]], [start], more=rows - few)
            show(bench_ceiling.ratios_of(f"{most} decoders", shares))


def _run_worker(call: _Call, source: Source, rows: int, decoders: int) -> Cost:
    settings = {"device": call.device, "decode_threads": decoders, "progress_seconds": PROGRESS_SECONDS}
    return call.rig.run_worker(source, rows, call.rig.vit_b_32, watches_threads=True, settings=settings)


def _images_per_second(cost: Cost, rows: int) -> float:
    """Return the speed of a worker after its start, from the lines of its progress."""
    progress = [
        (datetime.fromisoformat(line.time).timestamp(), line.count("images") or 0)
        for text in cost.output.splitlines()
        if (line := parse_line(text)) and line.event == CHUNK_PROGRESS
    ]
    begun = [(at, images) for at, images in progress[:-1] if images >= START_SHARE * rows]
    if not begun:
        return rows / cost.seconds
    (first, before), (last, after) = begun[0], progress[-1]
    return (after - before) / (last - first)


if __name__ == "__main__":
    main()
