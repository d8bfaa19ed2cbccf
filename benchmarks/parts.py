"""One part of the worker, alone in its process: python -m benchmarks.parts PART ARGUMENT... It prints a number last.

encode MODEL                 runs the bare model on batches in memory, and prints images a second
decode FOLDER                preprocesses files in memory on every core, and prints images a second
load MODEL                   starts the interpreter, imports the libraries and loads the weights, and prints 0
first-batch MANIFEST ROWS    reads the manifest, fetches and decodes ROWS images, and prints 0
loop KIND ROWS               directs decoders that do nothing, and prints the event loop's ms of CPU an image
chunk URL INDEX COUNT        finds and parses one chunk of a manifest, and prints the seconds that it took

The parts that print 0 are timed from outside, with the start of their process.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.settings import WorkerSettings

ROUNDS = 5
"""Number of measurements in a process. The fastest counts, because the hardware's limit is the yardstick."""


FETCH_THREADS = 16
"""Number of images that `first-batch` fetches at a time."""


def encode(model: str) -> float:
    import torch
    import transformers

    from worker.encode.encoder import choose_batch_size, choose_device, choose_dtype

    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    tower = transformers.CLIPVisionModelWithProjection.from_pretrained(model).eval().to(device, dtype)
    rows = choose_batch_size(device, threads=torch.get_num_threads())
    batch = torch.randn(rows, 3, 224, 224).to(device, dtype)
    best = 0.0
    with torch.inference_mode():
        tower(pixel_values=batch)
        for _ in range(ROUNDS):
            started = time.perf_counter()
            tower(pixel_values=batch)
            tower(pixel_values=batch).image_embeds.cpu()
            best = max(best, 2 * rows / (time.perf_counter() - started))
    return best


def decode(folder: str) -> float:
    from worker.decode.preprocess import image_square

    files = [path.read_bytes() for path in sorted(Path(folder).iterdir())[:256]]
    best = 0.0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            list(threads.map(lambda data: image_square(data, max_pixels=10**9), files))
            best = max(best, len(files) / (time.perf_counter() - started))
    return best


def load(model: str) -> float:
    from worker.encode.model import find_model
    from worker.encode.vision_tower import load_vision_tower

    source = find_model(model, revision="")
    load_vision_tower(source)
    return 0.0


def first_batch(manifest_uri: str, rows: str) -> float:
    """Read the manifest, fetch `rows` images in threads with urllib3, and decode one after the other.

    None of it is the worker's own fetching, so that a slow worker does not make its own yardstick slow. Like a worker,
    it imports the libraries while nothing else runs, signs the URLs, and asks for many images at a time.
    """
    import urllib3

    from common.store.s3.location import S3Location
    from common.store.s3.presigner import Presigner
    from worker.decode.preprocess import image_square
    from worker.manifest.manifest import open_manifest

    settings = _settings(manifest_uri, index="0", count="1")
    chunk = open_manifest(settings.manifest, http=settings.http).read_chunk(0, 1)
    presigner = Presigner()
    pool = urllib3.PoolManager(maxsize=FETCH_THREADS)

    def fetch(url: str) -> bytes:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        response = pool.request("GET", presigner.sign(S3Location(bucket, key)))
        if response.status != 200:
            raise RuntimeError(f"{url} was answered with {response.status}")
        return response.data

    with ThreadPoolExecutor(FETCH_THREADS) as threads:
        for data in threads.map(fetch, [row.url for row in chunk.rows[: int(rows)]]):
            image_square(data, max_pixels=10**9)
    return 0.0


def _settings(manifest_uri: str, *, index: str, count: str) -> WorkerSettings:
    from common.settings import read_settings
    from worker.settings import WorkerSettings

    os.environ |= {"EMBEDDER_MANIFEST_URI": manifest_uri, "EMBEDDER_RUN_URI": "unused"}
    os.environ |= {"JOB_COMPLETION_INDEX": index, "EMBEDDER_CHUNK_COUNT": count}
    return read_settings(WorkerSettings)


def chunk(url: str, index: str, count: str) -> float:
    from worker.manifest.manifest import open_manifest

    started = time.perf_counter()
    settings = _settings(url, index=index, count=count)
    found = open_manifest(settings.manifest, http=settings.http).read_chunk(int(index), int(count))
    seconds = time.perf_counter() - started
    assert found.rows
    return seconds


def loop(kind: str, rows: str) -> float:
    from benchmarks.event_loop import cpu_milliseconds

    return cpu_milliseconds(kind, int(rows))


PARTS: dict[str, Callable[..., float]] = {
    "encode": encode,
    "decode": decode,
    "load": load,
    "first-batch": first_batch,
    "loop": loop,
    "chunk": chunk,
}

if __name__ == "__main__":
    print(PARTS[sys.argv[1]](*sys.argv[2:]))
