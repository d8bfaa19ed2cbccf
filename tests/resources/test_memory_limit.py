"""Memory limits. Within its limit a program finishes. Beyond it, it is killed (137) or says what it lacks (75).

Either way it leaves nothing half-written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from common.errors import ExitCode
from common.store import open_store
from tests.merger.runs import assert_merged, merger_environment, put_run
from tests.resources.memory_group import memory_group
from tests.resources.program import MERGER, WORKER, run
from tests.worker.worker_process import PHOTOS, object_keys, read_chunk, worker_environment, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from common.format.chunk_file import Chunk
    from common.store.contract import Store

pytestmark = pytest.mark.slow

KILLED = 137
"""Exit code of a container that the kernel killed."""

LARGE_PIXELS = 80_000_000
"""Number of pixels of the largest images in these tests. A 16-bit image takes 20 bytes a pixel while it is decoded."""


@pytest.fixture(scope="module")
def big_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, list[Chunk]]]:
    """A run of 320 MB of vectors."""
    store = open_store(str(tmp_path_factory.mktemp("big") / "run"))
    chunks = put_run(store, [20_000] * 8, failed=10)
    yield store, chunks
    store.delete(found.key for found in list(store.list("")))


@pytest.mark.parametrize("assembly", ["server-side", "streaming"])
def test_a_merge_larger_than_its_memory_completes(big_run: tuple[Store, list[Chunk]], assembly: str) -> None:
    store, chunks = big_run
    store.delete(key for key in object_keys(store) if not key.startswith("chunks/"))
    environment = merger_environment(store.uri, len(chunks), {}, keep_chunks="true", assembly=assembly)
    with memory_group(300_000_000) as group:
        ended = run(MERGER, environment, prefix=group.prefix)
    assert ended.exit_code == 0, ended.log
    assert_merged(store, chunks)


def test_a_merge_that_its_memory_limit_kills_leaves_all_chunks_and_no_result(
    big_run: tuple[Store, list[Chunk]],
) -> None:
    store, chunks = big_run
    store.delete(key for key in object_keys(store) if not key.startswith("chunks/"))
    before = object_keys(store)
    for limit in (20_000_000, 45_000_000):
        with memory_group(limit) as group:
            ended = run(MERGER, merger_environment(store.uri, len(chunks), {}), prefix=group.prefix)
        assert ended.exit_code in {KILLED, ExitCode.TEMPORARY_FAILURE}, ended.log
        assert object_keys(store) == before


@pytest.mark.parametrize("megabytes", [350, 450])
def test_a_merge_that_is_refused_memory_says_so(tmp_path: Path, megabytes: int) -> None:
    store = open_store(str(tmp_path / "run"))
    put_run(store, [2000] * 4)
    before = object_keys(store)
    environment = merger_environment(store.uri, 4, {}, assembly="streaming")
    ended = run(MERGER, environment, prefix=["prlimit", f"--as={megabytes}000000"])
    assert ended.exit_code == ExitCode.TEMPORARY_FAILURE, ended.log
    assert "memory" in ended.last_word
    assert "raise the memory limit" in ended.last_word
    assert "Traceback" not in ended.log
    assert object_keys(store) == before


def test_a_merge_that_memory_is_short_for_calls_no_chunk_damaged(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    put_run(store, [2000] * 4)
    before = object_keys(store)
    # With each thread that starts, 72 MB less are left. At these limits little is left while headers are read.
    for megabytes in (*range(312, 326, 2), *range(380, 390, 2), *range(444, 452, 2)):
        environment = merger_environment(store.uri, 4, {}, assembly="streaming")
        ended = run(MERGER, environment, prefix=["prlimit", f"--as={megabytes}000000"])
        assert ended.exit_code == ExitCode.TEMPORARY_FAILURE, ended.log
        assert "raise the memory limit" in ended.last_word
        assert "damaged" not in ended.log
        assert "Traceback" not in ended.log
        assert object_keys(store) == before


def test_a_worker_without_enough_memory_stores_nothing_and_completes_with_enough(
    tmp_path: Path, wide_tower: Path
) -> None:
    store = open_store(str(tmp_path / "run"))
    manifest = write_manifest(tmp_path, [str(path) for path in PHOTOS] * 3)
    environment = worker_environment(manifest_uri=manifest, run_uri=store.uri, model=wide_tower, dtype="float32")
    # The worker is killed before it begins, while it loads the libraries, or with the first images.
    for megabytes in (20, 150, 330):
        with memory_group(megabytes * 1_000_000) as group:
            ended = run(WORKER, environment, prefix=group.prefix)
        assert ended.exit_code in {KILLED, ExitCode.TEMPORARY_FAILURE}, ended.log
        assert object_keys(store) == []
    # An allocation fails.
    ended = run(WORKER, environment, prefix=["prlimit", "--as=1200000000"])
    assert ended.exit_code == ExitCode.TEMPORARY_FAILURE, ended.log
    assert "raise the memory limit" in ended.last_word
    assert "Traceback" not in ended.log
    assert object_keys(store) == []
    with memory_group(3_000_000_000) as group:
        ended = run(WORKER, environment, prefix=group.prefix)
    assert ended.exit_code == 0, ended.log
    assert len(read_chunk(store.uri).urls) == 3 * len(PHOTOS)


def test_images_at_the_limit_of_pixels_are_decoded_one_at_a_time_within_the_memory_that_one_takes(
    tmp_path: Path, wide_tower: Path
) -> None:
    side = int(LARGE_PIXELS**0.5)
    Image.new("I;16", (side, side), 20_000).save(tmp_path / "grey.png", compress_level=1)
    Image.new("RGBA", (side, side), (200, 100, 50, 128)).save(tmp_path / "clear.png", compress_level=1)
    manifest = write_manifest(tmp_path, ["grey.png", "grey.png", "clear.png", "grey.png", str(PHOTOS[0])])
    environment = worker_environment(
        manifest_uri=manifest,
        run_uri=tmp_path / "run",
        model=wide_tower,
        dtype="float32",
        decode_threads=4,
        max_image_pixels=LARGE_PIXELS,
    )
    # Room for a worker and one image: two images at once would not fit.
    with memory_group(1_100_000_000 + 20 * LARGE_PIXELS) as group:
        ended = run(WORKER, environment, prefix=group.prefix)
    assert ended.exit_code == 0, ended.log
    assert len(read_chunk(tmp_path / "run").urls) == 5
