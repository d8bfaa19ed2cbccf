"""Freed memory stays in a worker for the next batch, and a decoder gives back the memory of a large image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.decoders.pool import decoder_processes, decoders
from tests.worker.images import PHOTOS, encoded, photo
from worker.memory import DECODER_MALLOC, WORKER_MALLOC

FEW_FAULTS = 50
MANY_FAULTS = 5000
"""Numbers of page faults, out of the 20,480 pages of a batch of 80 MiB: fewer are few, more are many."""

BATCHES = """
import resource, threading

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use_a_batch_of_memory():
    blocks = [b"x" * (megabytes << 20) for megabytes in (10, 20, 20, 20, 10)]

def measure():
    use_a_batch_of_memory()
    use_a_batch_of_memory()
    before = page_faults()
    use_a_batch_of_memory()
    print(page_faults() - before)

thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""
"""Batches in a thread, as in a worker. The first two are not measured: they take their memory from the kernel."""

SMALL_GROWTH = 30 << 20
"""Numbers of bytes by which a decoder grows. A large image of these tests takes 100 MB or more while it is decoded."""


def faults_of_a_batch(variables: dict[str, str]) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    ended = subprocess.run(
        [sys.executable, "-c", BATCHES], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return int(ended.stdout)


def test_a_worker_keeps_the_memory_of_a_batch_for_the_next_batch() -> None:
    assert faults_of_a_batch(WORKER_MALLOC) < FEW_FAULTS


@pytest.mark.parametrize("missing", [*WORKER_MALLOC, "all"])
def test_without_one_of_the_variables_the_memory_of_each_batch_comes_from_the_kernel(missing: str) -> None:
    variables = {name: value for name, value in WORKER_MALLOC.items() if missing not in (name, "all")}
    assert faults_of_a_batch(variables) > MANY_FAULTS


@pytest.mark.slow
def test_a_decoder_gives_back_the_memory_of_large_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A decoder with the values of the worker that starts it would keep this memory.
    for name, value in WORKER_MALLOC.items():
        monkeypatch.setenv(name, value)
    growth, environment = decoder_growth_over_large_images(tmp_path)
    assert growth < SMALL_GROWTH
    assert {name: environment.get(name) for name in DECODER_MALLOC} == DECODER_MALLOC


def decoder_growth_over_large_images(folder: Path) -> tuple[int, dict[str, str]]:
    """Return how many bytes larger a decoder is after large images than after photos, and its environment."""
    picture = photo().resize((6600, 4900))
    large = [encoded(picture, "BMP"), encoded(picture, "PNG", compress_level=1)]
    files = [folder / "large.bmp", folder / "large.png"]
    for file, data in zip(files, large, strict=True):
        file.write_bytes(data)
    with decoders(max_bytes=128 << 20) as pool:
        for photo_file in PHOTOS:
            pool.pixels(photo_file)
        (process,) = decoder_processes()
        before = private_bytes(process)
        for file in files:
            pool.pixels(file)
        variables = Path(f"/proc/{process}/environ").read_text("utf-8").split("\0")
        return private_bytes(process) - before, dict(variable.split("=", 1) for variable in variables if variable)


def private_bytes(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
