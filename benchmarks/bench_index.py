"""Measures the index program: rate of the build, bytes and memory of a vector, recall.

    python -m benchmarks.bench_index                     100,000 rows, with the default M and ef_construction
    python -m benchmarks.bench_index --rows 1000000      a million rows: 4.4 GB of disk, 2.6 GB of memory
    python -m benchmarks.bench_index --compare           20,000 rows, with several values of M and ef_construction
    python -m benchmarks.bench_index --quick             2,000 rows, to check that it works

The vectors are made up, and resemble CLIP's: most of their variance lies in few directions, two random images have a
cosine of about 0.5, and images lie in clusters of very different sizes. Uniformly random vectors would be harder than
any photos: all of them are about equally far from each other (--uniform measures it).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.format.chunk_file import Chunk, write_chunk
from common.format.provenance import Provenance
from common.run.keys import chunk_key
from common.run.summary import IndexSummary, read_summary
from common.store import open_store
from merger.merge import merge
from merger.settings import MergerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from common.store.contract import Store

DIMENSIONS = 512
CHUNK_ROWS = 50_000
CLUSTERS = 2000
COMPARED = [(8, 200), (16, 100), (16, 200), (16, 400), (24, 200), (32, 200), (32, 400)]
"""The values of M and ef_construction that `--compare` measures."""


class Vectors:
    """Made-up vectors of images."""

    def __init__(self, *, is_uniform: bool) -> None:
        generator = np.random.default_rng(0)
        self._is_uniform = is_uniform
        self._spread = np.arange(1, DIMENSIONS + 1, dtype=np.float32) ** -0.5  # (D,)
        self._spread /= np.linalg.norm(self._spread)
        self._mean = np.zeros(DIMENSIONS, np.float32)
        self._mean[-1] = 1
        self._centres = 0.7 * self._spread * generator.standard_normal((CLUSTERS, DIMENSIONS), np.float32)
        sizes = 1 / np.arange(1, CLUSTERS + 1) ** 0.7
        self._shares = sizes / sizes.sum()
        # Turned, so that no number of a vector differs from the others.
        self._turn = np.linalg.qr(generator.standard_normal((DIMENSIONS, DIMENSIONS)))[0].astype(np.float32)

    def make(self, count: int, *, seed: int) -> NDArray[np.float32]:
        """Return (count, DIMENSIONS) vectors of norm 1."""
        generator = np.random.default_rng(seed + 1)
        vectors = generator.standard_normal((count, DIMENSIONS), np.float32)
        if not self._is_uniform:
            centres = self._centres[generator.choice(CLUSTERS, count, p=self._shares)]
            vectors = (self._mean + centres + 0.7 * self._spread * vectors) @ self._turn
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def put_run(store: Store, rows: int, *, is_uniform: bool) -> None:
    """Make a finished run with so many rows."""
    starts = range(0, rows, CHUNK_ROWS)
    made_by = Provenance(
        manifest="bench",
        chunk_count=len(starts),
        model="untrained",
        model_revision="",
        weights="bench",
        dtype="float32",
        preprocessing="1",
        rotation=True,
        sources="url",
    )
    vectors = Vectors(is_uniform=is_uniform)
    with tempfile.TemporaryDirectory() as folder:
        for index, start in enumerate(starts):
            count = min(CHUNK_ROWS, rows - start)
            chunk = Chunk(
                index=index,
                urls=[f"https://images.example/{row}.jpg" for row in range(start, start + count)],
                ids=None,
                embeddings=vectors.make(count, seed=index),
                failures=[],
                provenance=made_by,
            )
            path = Path(folder) / "chunk.h5"
            write_chunk(path, chunk)
            store.put_file(chunk_key(index), path)
    merge(store, MergerSettings(run_uri=store.uri, chunk_count=len(starts)))


def measure(store: Store, *, m: int, ef_construction: int, threads: int) -> str:
    """Build the index in a process of its own, and return a row of the table."""
    variables = {"RUN_URI": store.uri, "INDEX_M": m, "INDEX_EF_CONSTRUCTION": ef_construction}
    variables |= {"INDEX_THREADS": threads, "INDEX_MIN_RECALL": 0}
    environment = os.environ | {f"EMBEDDER_{name}": str(value) for name, value in variables.items()}
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "results.index"], env=environment)
    peak_bytes = 0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak_bytes = max(peak_bytes, *map(peak_of, [process.pid, *children_of(process.pid)]))
        time.sleep(0.05)
    _, status, used = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the index program ended with {process.returncode}")
    seconds = time.monotonic() - began
    summary = read_summary(store)
    index = None if summary is None else summary.index
    assert index is not None
    return row_of_table(index, seconds=seconds, cpu_seconds=used.ru_utime + used.ru_stime, peak_bytes=peak_bytes)


def peak_of(process: int) -> int:
    """Return the peak memory of a process in bytes, 0 when it has ended."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    except OSError:
        return 0
    return int(status.get("VmHWM", "0 kB").split()[0]) * 1024


def children_of(process: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def row_of_table(index: IndexSummary, *, seconds: float, cpu_seconds: float, peak_bytes: int) -> str:
    cells = [
        f"{index.rows:,}",
        index.m,
        index.ef_construction,
        f"{seconds:.0f} s",
        f"{cpu_seconds:.0f} s",
        f"{index.rows / cpu_seconds:,.0f}/s",
        f"{index.bytes / index.rows:,.0f}",
        f"{peak_bytes / 1e6:,.0f} MB",
        index.recall_at_10_unset_ef,
        f"{index.recall_at_10} (ef={index.ef_search})",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main(rows: int, choices: Sequence[tuple[int, int]], *, threads: int, is_uniform: bool, folder: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = open_store(place)
        put_run(store, rows, is_uniform=is_uniform)
        lines = [measure(store, m=m, ef_construction=ef, threads=threads) for m, ef in choices]
    columns = ["rows", "M", "ef_construction", "time", "CPU", "rate of a core", "bytes a vector", "peak memory"]
    columns += ["recall@10, ef not set", "recall@10"]
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each core")
    parser.add_argument("--uniform", action="store_true", help="uniformly random vectors")
    parser.add_argument("--folder", help="where the run is made, by default the folder for temporary files")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    main(
        arguments.rows or (2000 if arguments.quick else 20_000 if arguments.compare else 100_000),
        COMPARED if arguments.compare else [(arguments.m, arguments.ef_construction)],
        threads=arguments.threads,
        is_uniform=arguments.uniform,
        folder=arguments.folder,
    )
