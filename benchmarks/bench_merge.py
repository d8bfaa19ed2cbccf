"""Compares the merge with the earlier way: download every chunk, append all to one HDF5 file, upload that file.

    python -m benchmarks.bench_merge            1 GB in 50 chunks, all ways in turn, then 900 chunks of texts alone
    python -m benchmarks.bench_merge --quick    the same with 30 MB, in one round, to check that it works

1 GB of vectors is merged with two kinds of rows. A plain list has URLs of 54 bytes and no ids. Open Images has ids of
16 bytes and URLs of 64 bytes, the length of its longest ones. The 900 chunks are of the second kind.

Bytes in and out are all bytes that the process reads from the store and writes to it, in % of the result.

Each way runs in a process of its own against a real S3 server on this machine. Server and client share the cores and
the disk, so the ratios mean something and the seconds little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import h5py
import numpy as np

from common.format.chunk_file import Chunk, write_chunk
from common.format.provenance import Provenance
from common.logs import configure_logs
from common.run.keys import RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from merger.settings import MergerSettings
from tests.s3_server import s3_server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from common.store.contract import Store

BUCKET = "bench"


class Size(NamedTuple):
    rounds: int
    chunks: int
    rows: int
    """Number of rows in a chunk."""
    text_chunks: int


FULL = Size(rounds=3, chunks=50, rows=10_000, text_chunks=900)
QUICK = Size(rounds=1, chunks=4, rows=3600, text_chunks=20)


def plain_row(index: int, row: int) -> tuple[str, None]:
    return f"https://images.example/photos/{index:04}/{row:06}-{index * 65_536 + row:08x}.jpg", None


def open_images_row(index: int, row: int) -> tuple[str, str]:
    name = f"{index:06x}{row:010x}"
    number = f"{index * 10_000 + row:011}"
    return f"https://farm{1 + index % 9}.staticflickr.com/{1000 + index}/{number}_{name[-10:]}_o.jpg", name


KINDS: dict[str, Callable[[int, int], tuple[str, str | None]]] = {
    "plain list": plain_row,
    "Open Images": open_images_row,
}
"""The kinds of rows. Each function returns a URL, and an id if the kind has ids."""


class Cost(NamedTuple):
    seconds: float
    cpu_seconds: float
    """CPU time of the process, user and system. It depends less than the seconds on the machine's other work."""
    bytes_in: int
    bytes_out: int
    peak_memory: int
    peak_disk: int


def put_run(store: Store, kind: str, *, chunk_count: int, rows: int, dimensions: int) -> None:
    """Put chunks of random unit vectors."""
    made_by = Provenance(
        manifest="bench",
        chunk_count=chunk_count,
        model="untrained",
        model_revision="",
        weights="bench",
        dtype="float32",
        preprocessing="1",
        rotation=True,
        sources="url",
    )
    vectors = np.random.default_rng(0).standard_normal((rows, dimensions), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chunk.h5"
        for index in range(chunk_count):
            texts = [KINDS[kind](index, row) for row in range(rows)]
            ids = [each for _, each in texts if each is not None]
            chunk = Chunk(
                index=index,
                urls=[url for url, _ in texts],
                ids=ids or None,
                embeddings=np.roll(vectors, index, axis=0),
                failures=[],
                provenance=made_by,
            )
            write_chunk(path, chunk)
            store.put_file(chunk_key(index), path)


def measure(program: list[str], environment: Mapping[str, str]) -> Cost:
    """Run one way in a process of its own, and return its cost.

    The process prints its CPU time, its bytes and its peak memory. The size of its temporary folder is measured ten
    times a second.
    """
    peak_disk = 0
    done = threading.Event()
    with tempfile.TemporaryDirectory() as scratch:

        def watch() -> None:
            nonlocal peak_disk
            while not done.wait(0.1):
                peak_disk = max(peak_disk, bytes_on_disk(Path(scratch)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.monotonic()
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "benchmarks.bench_merge", *program],
                env=os.environ | dict(environment) | {"TMPDIR": scratch},
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
        finally:
            seconds = time.monotonic() - started
            done.set()
            watcher.join()
    said = json.loads(ended.stdout)
    return Cost(seconds, said["cpu_seconds"], said["bytes_in"], said["bytes_out"], said["peak_memory"], peak_disk)


def bytes_on_disk(folder: Path) -> int:
    """Return how many bytes the files below the folder take on disk. Holes do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def say(*, bytes_in: int, bytes_out: int) -> None:
    # VmHWM, because ru_maxrss also counts the memory of the parent before the fork.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_memory = int(status["VmHWM"].split()[0]) * 1024
    cpu_seconds = sum(os.times()[:2])
    print(
        json.dumps(
            {"cpu_seconds": cpu_seconds, "bytes_in": bytes_in, "bytes_out": bytes_out, "peak_memory": peak_memory}
        )
    )


def merge_here(uri: str, chunk_count: int, assembly: str) -> None:
    """Merge with the merger itself."""
    from merger.merge import merge  # noqa: PLC0415 - the process that measures the other way does not import it

    configure_logs()
    store = open_store(uri)
    options: dict[str, Any] = {"assembly": assembly, "keep_chunks": True}
    merge(store, MergerSettings(run_uri=uri, chunk_count=chunk_count, **options))
    summary = json.loads(store.read(SUMMARY_KEY))
    say(bytes_in=summary["bytes_read"], bytes_out=summary["bytes_uploaded"])


def merge_by_appending(uri: str, chunk_count: int) -> None:
    """Download all chunk files, append them to one HDF5 file, upload it."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    api = boto3.client("s3")
    downloaded = 0
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.h5" for index in range(chunk_count)]
        for index, path in enumerate(paths):
            api.download_file(bucket, f"{prefix}/{chunk_key(index)}", str(path))
            downloaded += path.stat().st_size
        result = Path(folder) / RESULT_KEY
        with h5py.File(result, "w") as merged:
            for path in paths:
                with h5py.File(path, "r") as chunk:
                    for name in [name for name in ("urls", "ids", "embeddings") if name in chunk]:
                        rows = chunk[name][:]
                        if name not in merged:
                            merged.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]), chunks=True)
                            continue
                        before = merged[name].shape[0]
                        merged[name].resize(before + len(rows), axis=0)
                        merged[name][before:] = rows
        result_bytes = result.stat().st_size
        api.upload_file(str(result), bucket, f"{prefix}/{RESULT_KEY}")
    say(bytes_in=downloaded, bytes_out=result_bytes)


def compare(store: Store, kind: str, size: Size, environment: Mapping[str, str]) -> None:
    count = str(size.chunks)
    put_run(store, kind, chunk_count=size.chunks, rows=size.rows, dimensions=512)
    url, each = KINDS[kind](0, 0)
    print(f"\n{kind}: {size.chunks} chunks of {size.rows} rows, URLs of {len(url)} bytes, ids of {len(each or '')}")
    ways = {
        "append": ["append", store.uri, count],
        "server-side": ["merge", store.uri, count, "server-side"],
        "streaming": ["merge", store.uri, count, "streaming"],
    }
    for turn in range(1, size.rounds + 1):
        costs = {}
        for name, program in ways.items():
            costs[name] = measure(program, environment)
            show(f"round {turn} {name}", costs[name], result_bytes(store))
            store.delete([RESULT_KEY, SUMMARY_KEY])
        ratio = costs["server-side"].seconds / costs["append"].seconds
        print(f"round {turn} server-side takes {ratio:.2f} of the time of append", flush=True)
    store.delete([found.key for found in store.list("")])


def result_bytes(store: Store) -> int:
    found = store.stat(RESULT_KEY)
    assert found is not None
    return found.size


def show(name: str, cost: Cost, size: int) -> None:
    print(
        f"{name:<22} {cost.seconds:6.1f} s, {cost.cpu_seconds:5.1f} s CPU  "
        f"{cost.bytes_in / 1e6:7.1f} MB in, {cost.bytes_out / 1e6:7.1f} MB out: "
        f"{cost.bytes_in / size:6.2%} in, {cost.bytes_out / size:6.2%} out, "
        f"{max(cost.bytes_in, cost.bytes_out) / size:6.2%} the larger, "
        f"{(cost.bytes_in + cost.bytes_out) / size:6.2%} both  "
        f"{cost.peak_memory / 1e6:6.0f} MB memory  "
        f"{cost.peak_disk / 1e6:7.1f} MB disk",
        flush=True,
    )


def main(size: Size) -> None:
    with s3_server() as server:
        os.environ.update(server.environment)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        for kind in KINDS:
            compare(open_store(f"s3://{BUCKET}/{kind.replace(' ', '-')}"), kind, size, server.environment)
        texts = open_store(f"s3://{BUCKET}/texts")
        put_run(texts, "Open Images", chunk_count=size.text_chunks, rows=size.rows, dimensions=1)
        print(
            f"\n{size.text_chunks * size.rows:,} URLs and ids of Open Images in {size.text_chunks} chunks, vectors of 1"
        )
        cost = measure(["merge", texts.uri, str(size.text_chunks), "server-side"], server.environment)
        show("texts and metadata", cost, result_bytes(texts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("program", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    match arguments.program:
        case []:
            main(QUICK if arguments.quick else FULL)
        case ["append", uri, count]:
            merge_by_appending(uri, int(count))
        case ["merge", uri, count, assembly]:
            merge_here(uri, int(count), assembly)
