"""What the benchmarks need: photos in a local S3 server, models, and processes whose costs are counted."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import boto3
import transformers

from benchmarks.photos import link_photos, make_photos
from tests.s3_server import s3_server
from worker.memory import WORKER_MALLOC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[1]
BUCKET = "photos"

T = TypeVar("T")


class Cost(NamedTuple):
    """The cost of a process from its start to its end."""

    seconds: float
    cpu_seconds: float
    peak_megabytes: float
    """Largest resident memory. Growth in the last 20 ms may be missed."""
    output: str
    """Standard output and standard error."""
    started: float
    """Time of the start, in Unix seconds."""


def run(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run `python -m command` to its end and return its cost. Raises RuntimeError with its output when it fails."""
    started, clock = time.time(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    watch = threading.Thread(target=_watch_memory, args=(process.pid, peak := [0.0]))
    watch.start()
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - clock
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-4000:]}")
    watch.join()
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak[0], output, started)


def _watch_memory(pid: int, peak: list[float]) -> None:
    # The peak that wait4 reports would also count the process that started this one.
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text("utf-8")
        except OSError:
            return
        if "VmHWM" not in status:  # it has ended
            return
        peak[0] = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
        time.sleep(0.02)


def part(*arguments: object, environment: Mapping[str, str]) -> float:
    """Return the number that a command of `benchmarks.parts` prints last."""
    cost = run(["benchmarks.parts", *map(str, arguments)], environment)
    return float(cost.output.split()[-1])


def in_turn(variants: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Return the results of each variant. In every round, each variant runs once."""
    results: dict[str, list[T]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            results[name].append(measure())
    return results


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


class Rig(NamedTuple):
    folder: Path
    keys: list[str]
    environment: dict[str, str]
    """The SDK's variables that lead a program to the server."""
    tiny_model: Path
    vit_b_32: Path

    def rows(self, count: int) -> list[str]:
        """Return the keys of `count` images. If there are fewer photos, they are repeated."""
        return [self.keys[number % len(self.keys)] for number in range(count)]

    def run_worker(self, count: int, model: Path, **settings: object) -> Cost:
        """Embed `count` images as one chunk."""
        manifest = self.folder / f"{count}.txt"
        manifest.write_text("".join(f"s3://{BUCKET}/{key}\n" for key in self.rows(count)), "utf-8")
        named = {f"EMBEDDER_{name.upper()}": str(value) for name, value in settings.items()}
        with tempfile.TemporaryDirectory(dir=self.folder) as run_uri:
            environment = {
                "JOB_COMPLETION_INDEX": "0",
                "EMBEDDER_CHUNK_COUNT": "1",
                "EMBEDDER_MANIFEST_URI": str(manifest),
                "EMBEDDER_RUN_URI": run_uri,
                "EMBEDDER_MODEL": str(model),
            }
            return run(["worker"], self.environment | WORKER_MALLOC | environment | named)

    def run_seed(self, count: int, model: Path) -> Cost:
        """Embed `count` images the seed's way."""
        keys = self.folder / "keys.txt"
        keys.write_text("\n".join(self.rows(count)), "utf-8")
        result = self.folder / "seed.h5"
        return run(["benchmarks.seed", BUCKET, str(keys), str(model), str(result)], self.environment)


@contextmanager
def rig(photo_count: int, *, source: Path | None = None) -> Iterator[Rig]:
    """Make models and photos, or take the photos of folder `source`, and serve the photos until the block ends.

    The S3 server is a process of its own.
    """
    transformers.utils.logging.disable_progress_bar()
    folder = Path(tempfile.mkdtemp(prefix="embedder-bench-"))
    try:
        (folder / "photos").mkdir()
        if source is None:
            photos = make_photos(folder / "photos", photo_count)
        else:
            photos = link_photos(folder / "photos", photo_count, source=source)
        tiny = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 1}
        models = {"tiny": tiny, "vit-b-32": {}}
        for name, config in models.items():
            tower = transformers.CLIPVisionConfig(**config, projection_dim=512)
            transformers.CLIPVisionModelWithProjection(tower).save_pretrained(folder / name)
        with s3_server() as server:
            client = boto3.client(
                "s3",
                endpoint_url=server.endpoint,
                aws_access_key_id=server.access_key,
                aws_secret_access_key=server.secret_key,
                region_name="us-east-1",
            )
            client.create_bucket(Bucket=BUCKET)
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(lambda path: client.upload_file(str(path), BUCKET, path.name), photos))
            yield Rig(folder, [path.name for path in photos], server.environment, folder / "tiny", folder / "vit-b-32")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
