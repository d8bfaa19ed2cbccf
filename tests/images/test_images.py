"""Both images, built and then started like pods; together they compute a whole run."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from common.run.keys import INDEX_KEY, RESULT_KEY, chunk_key
from common.run.state import find_finished
from common.store import open_store
from tests.image_server import image_server
from tests.images.build import MODEL, PLAIN_BASE, TORCH_BASE, Image, bases, build, mounted, reason_to_skip
from tests.images.container import RUN_SECONDS, run, start
from tests.worker.worker_process import PHOTOS
from worker.decode import plain_jpeg

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiohttp import web
    from mypy_boto3_s3 import S3Client

pytestmark = [
    pytest.mark.skipif(reason_to_skip() != "", reason=reason_to_skip()),
    pytest.mark.timeout(1800),
    pytest.mark.slow,
]

CHUNKS = 3
MERGE_PACKAGES = {"common", "merger", "k8s", "results"}
COMPILERS = ("gcc", "cc", "g++", "clang", "rustc", "nvcc", "make", "ld")


@pytest.fixture(scope="session")
def _bases() -> Iterator[None]:
    with bases():
        yield


@pytest.fixture(scope="session")
def worker_image(_bases: None) -> Iterator[Image]:
    with mounted(build("gpu", base=TORCH_BASE, WEIGHTS=MODEL)) as image:
        yield image


@pytest.fixture(scope="session")
def merge_image(_bases: None) -> Iterator[Image]:
    with mounted(build("merge", base=PLAIN_BASE)) as image:
        yield image


@pytest.fixture
def run_environment(s3_environment: dict[str, str], bucket: str) -> dict[str, str]:
    """The variables that the chart sets, for weights in the image."""
    return s3_environment | {
        "HOME": "/tmp",
        "EMBEDDER_RUN_URI": f"s3://{bucket}/run",
        "EMBEDDER_CHUNK_COUNT": str(CHUNKS),
        "EMBEDDER_MANIFEST_URI": f"s3://{bucket}/manifest.csv",
        "EMBEDDER_MODEL": "/models",
        "HF_HOME": "/tmp/huggingface",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "EMBEDDER_DECODE_THREADS": "1",
    }


@pytest.fixture
def photo_urls(s3_api: S3Client, bucket: str) -> list[str]:
    """Upload the example photos and a manifest of them; return their URLs."""
    for photo in PHOTOS:
        s3_api.upload_file(str(photo), bucket, f"photos/{photo.name}")
    urls = [f"s3://{bucket}/photos/{photo.name}" for photo in PHOTOS]
    s3_api.put_object(Bucket=bucket, Key="manifest.csv", Body="\n".join(["url", *urls, ""]).encode())
    return urls


def test_workers_and_merge_make_a_result_with_a_read_only_root_and_any_uid(
    worker_image: Image, merge_image: Image, run_environment: dict[str, str], photo_urls: list[str], tmp_path: Path
) -> None:
    command = ["python", "-m", "worker"]
    for index in range(CHUNKS):
        environment = run_environment | {"JOB_COMPLETION_INDEX": str(index)}
        worker = run(worker_image, tmp_path, command=command, environment=environment)
        assert worker.exit_code == 0, worker.log
        assert f"chunk {index} is in the store" in worker.last_word
    gate = run(merge_image, tmp_path, command=["python", "-m", "k8s.gate"], environment=run_environment)
    assert gate.exit_code == 0, gate.log
    assert f"all {CHUNKS} chunks are there" in gate.last_word
    merge = run(merge_image, tmp_path, command=["python", "-m", "merger"], environment=run_environment)
    assert merge.exit_code == 0, merge.log
    # The folder of the index is a volume of the pod; /tmp stands for it.
    environment = run_environment | {"EMBEDDER_INDEX_FOLDER": "/tmp"}
    indexed = run(merge_image, tmp_path, command=["python", "-m", "results.index"], environment=environment)
    assert indexed.exit_code == 0, indexed.log

    store = open_store(run_environment["EMBEDDER_RUN_URI"])
    result = store.stat(RESULT_KEY)
    assert result is not None
    with store.open(RESULT_KEY, result.size) as opened, h5py.File(opened, "r") as file:
        urls, embeddings = [url.decode() for url in file["urls"][:]], file["embeddings"][:]
    assert urls == photo_urls
    assert embeddings.shape == (len(photo_urls), 512)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    finished = find_finished(store)
    assert finished is not None
    assert finished.summary.has_current_index
    assert store.stat(INDEX_KEY) is not None


def test_the_worker_has_the_compiled_decoder(worker_image: Image, tmp_path: Path) -> None:
    assert len(list((worker_image.root / "opt/program/worker").rglob("_plain_jpeg*.so"))) == 1
    command = ["python", "-c", "from worker.decode import plain_jpeg; print(plain_jpeg.is_available())"]
    asked = run(worker_image, tmp_path, command=command, environment={})
    assert asked.log.split() == [str(plain_jpeg.is_available())]


def test_the_merge_image_has_hnswlib_for_any_processor_and_everything_that_it_loads(
    merge_image: Image, tmp_path: Path
) -> None:
    (library,) = merge_image.root.joinpath("opt/embedder").rglob("hnswlib*.so")
    needed = subprocess.run(["readelf", "--dynamic", str(library)], capture_output=True, text=True, check=True).stdout
    assert "libgomp" not in needed
    code = subprocess.run(["objdump", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"%[yz]mm[0-9]", code), "instructions of AVX, which not every processor of the platform has"
    command = ["python", "-c", "import hnswlib; print(hnswlib.Index('cosine', 512).dim)"]
    assert run(merge_image, tmp_path, command=command).log.split() == ["512"]


def test_sigterm_ends_the_worker_with_143_and_nothing_in_the_store(
    worker_image: Image, run_environment: dict[str, str], s3_api: S3Client, bucket: str, tmp_path: Path
) -> None:
    asked = threading.Event()

    async def never_answer(_: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise asyncio.CancelledError

    with image_server() as server:
        url = server.on("/photo.jpg", never_answer)
        s3_api.put_object(Bucket=bucket, Key="manifest.csv", Body=f"url\n{url}\n".encode())
        environment = run_environment | {
            "EMBEDDER_CHUNK_COUNT": "1",
            "EMBEDDER_ALLOW_PRIVATE_HOSTS": "true",
            "JOB_COMPLETION_INDEX": "0",
        }
        container = start(worker_image, tmp_path, command=["python", "-m", "worker"], environment=environment)
        assert asked.wait(RUN_SECONDS)
        container.stop()
        ended = container.end()
    assert ended.exit_code == 143, ended.log
    assert "stopped by SIGTERM" in ended.last_word
    assert open_store(run_environment["EMBEDDER_RUN_URI"]).stat(chunk_key(0)) is None


def test_an_image_without_settings_says_which_it_needs(worker_image: Image, merge_image: Image, tmp_path: Path) -> None:
    for image in (worker_image, merge_image):
        ended = start(image, tmp_path, uid=65532).end()
        assert ended.exit_code == 78, ended.log
        assert "EMBEDDER_RUN_URI is not set" in ended.last_word
        assert len(ended.lines) == 1


def test_the_merge_image_has_no_package_that_only_the_worker_needs(merge_image: Image, tmp_path: Path) -> None:
    heavy = ["torch", "transformers", "simplejpeg", "PIL", "pyarrow", "worker", "embedder", "rich", "typer"]
    code = f"import importlib.util; print([name for name in {heavy} if importlib.util.find_spec(name)])"
    found = run(merge_image, tmp_path, command=["python", "-c", code])
    assert found.log.strip() == "[]"
    assert not [path for path in merge_image.root.rglob("*") if path.name in {"torch", "libtorch_cpu.so"}]


def test_the_worker_image_has_no_kubernetes_client(worker_image: Image, tmp_path: Path) -> None:
    code = "import importlib.util; print(importlib.util.find_spec('kubernetes'))"
    assert run(worker_image, tmp_path, command=["python", "-c", code]).log.strip() == "None"


def test_an_image_has_only_the_packages_of_the_program_that_it_runs(worker_image: Image, merge_image: Image) -> None:
    for image, packages in ((worker_image, {"common", "worker"}), (merge_image, MERGE_PACKAGES)):
        found = {path.name for path in (image.root / "opt" / "program").iterdir()}
        assert found == packages | {f"embedder-{image.name.rpartition(':')[2]}.dist-info"}


def test_the_images_contain_no_compiler_no_cache_and_no_tests(worker_image: Image, merge_image: Image) -> None:
    for image in (worker_image, merge_image):
        programs = [image.root / folder / name for folder in ("usr/bin", "usr/local/bin") for name in COMPILERS]
        assert not [path for path in programs if path.exists()]
        for folder in ("root/.cache", "tmp", "source"):
            assert not [path for path in image.root.joinpath(folder).rglob("*") if path.is_file()]
        assert not list(image.root.joinpath("opt").rglob("tests"))


IMPORT_AND_CHECK = """
import importlib, os, sys
for name in {modules}:
    importlib.import_module(name)
UNCHECKED_HASH = (1).to_bytes(4, "little")
stale = []
for module in list(sys.modules.values()):
    source, cached = getattr(module, "__file__", None), getattr(module, "__cached__", None)
    # Frozen modules, and modules that PyTorch creates in memory, have no bytecode.
    if source and cached and os.path.isabs(source):
        stat = os.stat(source)
        dated = bytes(4) + b"".join(int(each).to_bytes(4, "little") for each in (stat.st_mtime, stat.st_size))
        with open(cached, "rb") as file:
            if not file.read(16)[4:].startswith((UNCHECKED_HASH, dated)):
                stale.append(source)
print(stale)
"""
"""Prints the modules whose bytecode Python would not use, because the source has another date or size."""


def test_every_module_that_the_programs_import_has_bytecode(
    worker_image: Image, merge_image: Image, tmp_path: Path
) -> None:
    worker = ["worker.chunk_job.job", "worker.encode.encoder", "transformers.models.clip.modeling_clip"]
    merge = ["merger.merge", "k8s.gate.gate", "k8s.gate.report", "k8s.gate.finished_run", "results.index.job"]
    for image, modules in ((worker_image, worker), (merge_image, merge)):
        code = IMPORT_AND_CHECK.format(modules=modules)
        ended = run(image, tmp_path, command=["python", "-c", code])
        assert ended.log.strip() == "[]"


def test_the_images_have_labels_and_a_numeric_user(worker_image: Image, merge_image: Image) -> None:
    for image in (worker_image, merge_image):
        labels = {key.removeprefix("org.opencontainers.image."): text for key, text in image.config["Labels"].items()}
        assert labels["licenses"] == "MIT"
        assert labels["version"] == image.name.rpartition(":")[2]
        assert {"revision", "source"} <= labels.keys()
        assert image.config["User"] == "65532:65532"


def test_the_image_contains_the_weights_and_their_origin(worker_image: Image) -> None:
    assert json.loads((worker_image.root / "models" / "origin.json").read_text())["model"] == MODEL
    assert (worker_image.root / "models" / "model.safetensors").exists()
