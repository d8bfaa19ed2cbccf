"""What the benchmarks of the worker share: photos, servers that have them, models, and a worker that embeds them."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import boto3
import transformers

from benchmarks.photo_server import photo_server
from benchmarks.photos import link_photos, make_photos
from benchmarks.processes import THIS_TREE, run
from tests.s3_server import s3_server
from worker.memory import WORKER_MALLOC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.photo_server import PhotoServer
    from benchmarks.processes import Cost, Program

BUCKET = "photos"

TINY = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 1}
"""The configuration of a vision tower that costs next to nothing."""


class Source(NamedTuple):
    """Where a worker finds the photos."""

    urls: list[str]
    environment: dict[str, str]
    """The environment variables with which a program reaches them."""

    def rows(self, count: int) -> list[str]:
        """Return the URLs of `count` images. If there are fewer photos, they are repeated."""
        return [self.urls[number % len(self.urls)] for number in range(count)]


class Rig(NamedTuple):
    folder: Path
    photos: Path
    """The folder of the photos."""
    tiny_model: Path
    vit_b_32: Path

    def manifest(self, source: Source, count: int) -> Path:
        """Write a manifest of `count` images."""
        path = self.folder / f"{count}.txt"
        path.write_text("".join(f"{url}\n" for url in source.rows(count)), "utf-8")
        return path

    def run_worker(
        self,
        source: Source,
        count: int,
        model: Path,
        *,
        program: Program = THIS_TREE,
        watches_threads: bool = False,
        settings: Mapping[str, object] | None = None,
    ) -> Cost:
        """Embed `count` images as one chunk. `settings` are the worker's, without EMBEDDER_ and in small letters."""
        named = {f"EMBEDDER_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        with tempfile.TemporaryDirectory(dir=self.folder) as run_uri:
            environment = {
                "JOB_COMPLETION_INDEX": "0",
                "EMBEDDER_CHUNK_COUNT": "1",
                "EMBEDDER_MANIFEST_URI": str(self.manifest(source, count)),
                "EMBEDDER_RUN_URI": run_uri,
                "EMBEDDER_MODEL": str(model),
            }
            return run(
                ["worker"],
                source.environment | WORKER_MALLOC | environment | named,
                program=program,
                watches_threads=watches_threads,
            )

    def run_seed(self, source: Source, count: int, model: Path) -> Cost:
        """Embed `count` images of the S3 server the seed's way."""
        keys = self.folder / "keys.txt"
        keys.write_text("\n".join(url.rpartition("/")[2] for url in source.rows(count)), "utf-8")
        result = self.folder / "seed.h5"
        return run(["benchmarks.seed", BUCKET, str(keys), str(model), str(result)], source.environment)


@contextmanager
def rig(photo_count: int, *, source: Path | None = None) -> Iterator[Rig]:
    """Make models and photos, or take the photos of folder `source`, and keep them until the block ends."""
    transformers.utils.logging.disable_progress_bar()
    folder = Path(tempfile.mkdtemp(prefix="embedder-bench-"))
    try:
        photos = folder / "photos"
        photos.mkdir()
        if source is None:
            make_photos(photos, photo_count)
        else:
            link_photos(photos, photo_count, source=source)
        for name, config in {"tiny": TINY, "vit-b-32": {}}.items():
            tower = transformers.CLIPVisionConfig(**config, projection_dim=512)
            transformers.CLIPVisionModelWithProjection(tower).save_pretrained(folder / name)
        yield Rig(folder, photos, folder / "tiny", folder / "vit-b-32")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3_source(photos: Path) -> Iterator[Source]:
    """Serve the photos from an S3 server until the block ends. The server is a process of its own."""
    paths = sorted(photos.iterdir())
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
            list(threads.map(lambda path: client.upload_file(str(path), BUCKET, path.name), paths))
        yield Source([f"s3://{BUCKET}/{path.name}" for path in paths], server.environment)


class HttpSources(NamedTuple):
    """The photo server's photos by both schemes."""

    by_scheme: dict[str, Source]
    server: PhotoServer


@contextmanager
def http_sources(photos: Path) -> Iterator[HttpSources]:
    """Serve the photos over HTTP and HTTPS until the block ends. The server is a process of its own."""
    names = [path.name for path in sorted(photos.iterdir())]
    with photo_server(photos) as server:
        yield HttpSources(
            {
                scheme: Source([f"{server.url(scheme)}/{name}" for name in names], server.environment)
                for scheme in ("http", "https")
            },
            server,
        )
