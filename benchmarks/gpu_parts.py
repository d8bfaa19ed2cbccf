"""A part of a worker beside a GPU, alone: python -m benchmarks.gpu_parts PART ARGUMENT... The last line is JSON.

model MODEL DEVICE SECONDS SIZE...      images/s of the bare model by batch size, for each way to launch it
encoder MODEL DEVICE SECONDS SIZE...    images/s of the worker's encoder by batch size
decode FOLDER SECONDS COUNT...          images/s of decoding files in memory, by the number of processes

Each figure is measured for SECONDS. A size that does not fit in the device's memory is left out.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Barrier

    from worker.encode.encoder import Encoder

WARM_UPS = 3
"""Number of batches before the clock starts."""

PIECES = 8
"""Number of pieces in a batch of the encoder. The squares of a worker's batch do not lie side by side either."""

QUEUED_BATCHES = 8
"""Number of batches that are launched before the host waits for the device."""


def _device(name: str) -> torch.device:
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


def model(folder: str, device_name: str, seconds: str, *sizes: str) -> dict[str, dict[str, float]]:
    """Measure transformers' vision tower on batches in the device's memory, in the type that a worker would choose."""
    import transformers

    from worker.encode.encoder import choose_dtype

    device = _device(device_name)
    dtype = choose_dtype("auto", device)
    tower = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval().to(device, dtype)
    side = tower.config.image_size
    found: dict[str, dict[str, float]] = {"eager": {}, "captured": {}}
    with torch.inference_mode():
        for size in map(int, sizes):
            pixels = torch.randn(size, 3, side, side, device=device).to(dtype)  # (size, 3, side, side)
            launch = partial(tower, pixel_values=pixels)
            try:
                found["eager"][str(size)] = size * _launches_per_second(launch, device, float(seconds))
                if device.type == "cuda":
                    replay = _captured(launch)
                    found["captured"][str(size)] = size * _launches_per_second(replay, device, float(seconds))
            except torch.OutOfMemoryError:
                break
    return found


def _captured(launch: Callable[[], object]) -> Callable[[], object]:
    """Return a function that launches all kernels of a batch at once, as a CUDA graph."""
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(beside):
        for _ in range(WARM_UPS):
            launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return graph.replay


def _launches_per_second(launch: Callable[[], object], device: torch.device, seconds: float) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UPS):
        launch()
    wait()
    queued = QUEUED_BATCHES if device.type == "cuda" else 1
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        for _ in range(queued):
            launch()
        wait()
        count += queued
    return count / passed


def encoder(folder: str, device_name: str, seconds: str, *sizes: str) -> dict[str, float]:
    """Measure the worker's encoder: squares in pinned memory in, vectors in memory out, one batch behind."""
    from common.errors import ResourceExhausted
    from worker.encode.encoder import Encoder, choose_dtype
    from worker.encode.model import find_model
    from worker.encode.vision_tower import load_vision_tower

    device = _device(device_name)
    source = find_model(folder, revision="")
    found: dict[str, float] = {}
    for size in map(int, sizes):
        try:
            # A new one for each size, as in a worker, because it is prepared for batches of one size.
            measured = Encoder(
                load_vision_tower(source),
                source,
                device=device,
                dtype=choose_dtype("auto", device),
                threads=torch.get_num_threads(),
            )
            measured.warm_up(size)
            found[str(size)] = size * _batches_per_second(measured, size, float(seconds))
        except (torch.OutOfMemoryError, ResourceExhausted):
            break
    return found


def _batches_per_second(encoder: Encoder, size: int, seconds: float) -> float:
    shape = (size, encoder.image_size, encoder.image_size, 3)
    squares = torch.randint(256, shape, dtype=torch.uint8)
    if encoder.device.type == "cuda":
        squares = squares.pin_memory()
    pieces = torch.split(squares, -(-size // PIECES))  # each (rows, side, side, 3)
    encoder.start(pieces)()
    count, started = 0, time.perf_counter()
    in_flight = encoder.start(pieces)
    while (passed := time.perf_counter() - started) < seconds or not count:
        following = encoder.start(pieces)
        in_flight()
        in_flight = following
        count += 1
    in_flight()
    return count / passed


def decode(folder: str, seconds: str, *counts: str) -> dict[str, float]:
    """Measure decoding in several processes at a time, forked from this one as a worker's decoders are."""
    from worker.decode.preprocess import image_square

    torch.set_num_threads(1)
    files = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    context = multiprocessing.get_context("fork")

    def work(number: int, begin: Barrier, done: multiprocessing.SimpleQueue[float]) -> None:
        image_square(files[0], max_pixels=10**9)
        begin.wait()
        decoded, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < float(seconds):
            image_square(files[(number + decoded) % len(files)], max_pixels=10**9)
            decoded += 1
        done.put(decoded / passed)

    found = {}
    for count in map(int, counts):
        begin, done = context.Barrier(count), context.SimpleQueue()
        # Each process begins with another file, so that they do not all decode the same one.
        processes = [
            context.Process(target=work, args=(number * len(files) // count, begin, done)) for number in range(count)
        ]
        for process in processes:
            process.start()
        found[str(count)] = sum(done.get() for _ in processes)
        for process in processes:
            process.join()
    return found


PARTS: dict[str, Callable[..., object]] = {
    "model": model,
    "encoder": encoder,
    "decode": decode,
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])))
