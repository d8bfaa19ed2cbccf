"""Disks are full, become full or cannot be written.

A program ends with 75 and a sentence that names the place, and leaves no half-written file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from common.errors import ExitCode, TemporaryError
from common.format.chunk_file import write_chunk
from common.process.resources import temporary_folder
from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from tests.embedder.local.test_local_run import PROGRAMS
from tests.merger.runs import assert_merged, make_chunk, merger_environment, put_run, read_result
from tests.resources.program import EMBEDDER, MERGER, WORKER, run
from tests.resources.small_disk import PAGE_BYTES, SmallDisk, small_disk
from tests.worker.worker_process import PHOTOS, read_chunk, worker_environment, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.worker.worker_process import Ended

pytestmark = pytest.mark.slow

FULL, READ_ONLY = "No space left on device", "Read-only file system"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the content of every file, hidden files included, by its path within the folder."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "ballast")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def assert_out_of(ended: Ended, place: Path, problem: str) -> None:
    """Check that the program ended with 75, and that its last word names the problem and the place."""
    assert ended.exit_code == ExitCode.TEMPORARY_FAILURE, ended.log
    assert str(place) in ended.last_word
    assert problem in ended.last_word
    assert "Traceback" not in ended.log


def test_a_chunk_is_in_the_store_whole_or_not_at_all_however_little_room_there_is(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(disk.outside))
    run_folder = disk.outside / "run"
    store = open_store(str(run_folder))
    chunk = make_chunk(0, 10, chunk_count=1, failed=2)
    errors, stored = [], 0
    for room in range(40):
        disk.fill(leaving_pages=room)
        try:
            with temporary_folder("test") as folder:
                write_chunk(folder / "chunk.h5", chunk)
                written = (folder / "chunk.h5").read_bytes()
                store.put_file(chunk_key(0), folder / "chunk.h5", overwrite=False)
        except TemporaryError as error:
            errors.append(str(error))
            assert files_in(disk.outside) == {}
        else:
            stored += 1
            assert files_in(run_folder) == {chunk_key(0): written}
            shutil.rmtree(run_folder)
    assert stored
    assert all(FULL in error for error in errors)
    assert {error.partition(": ")[0].rpartition("/")[2] for error in errors} == {
        "disk",
        "chunk.h5",
        "Images_Embedded_0.h5",
    }


def pages(data: bytes) -> int:
    """Return how many pages of a disk the bytes take."""
    return -(-len(data) // PAGE_BYTES)


def test_a_merge_without_room_leaves_no_half_file_and_completes_once_there_is_some(
    disk: SmallDisk, tmp_path: Path
) -> None:
    chunks = put_run(open_store(str(tmp_path / "run")), [30, 25], failed=200)
    undisturbed, elsewhere = tmp_path / "undisturbed", tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "run", undisturbed)
    elsewhere.mkdir()
    assert run(MERGER, merger_environment(str(undisturbed), 2, {})).exit_code == 0
    finished = files_in(undisturbed)
    before = files_in(tmp_path / "run")
    result, ledger, report = (pages(finished[key]) for key in (RESULT_KEY, FAILURES_KEY, REPORT_KEY))
    folder = disk.outside / "run"
    # For each file that the merge writes: the largest room, in pages, in which that file does not fit.
    for temporary, room, full in (
        (disk.path, 0, disk.path),
        (disk.path, ledger - 1, f"/{FAILURES_KEY}"),
        (elsewhere, result - 1, disk.path / "run" / RESULT_KEY),
        (elsewhere, result + ledger - 1, disk.path / "run" / FAILURES_KEY),
        (elsewhere, result + ledger + report - 1, disk.path / "run" / REPORT_KEY),
        (elsewhere, result + ledger + report, disk.path / "run" / SUMMARY_KEY),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "run", folder)
        disk.fill(leaving_pages=room)
        environment = merger_environment(str(disk.path / "run"), 2, {"TMPDIR": str(temporary)})
        ended = run(MERGER, environment, prefix=disk.prefix)
        assert_out_of(ended, disk.path, f"{full}: {FULL}")
        left = files_in(disk.outside)
        left.pop(f"run/{REPORT_KEY}", None)  # its times differ from those of the undisturbed run
        # Every file under its final name is whole, and no chunk is gone.
        expected = before | {name: finished[name] for name in (RESULT_KEY, FAILURES_KEY) if f"run/{name}" in left}
        assert left == {f"run/{name}": data for name, data in expected.items()}
        disk.make_room()
        assert run(MERGER, environment, prefix=disk.prefix).exit_code == 0
        assert_merged(open_store(str(folder)), chunks)
        left = files_in(folder)
        assert left.keys() == {RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY}
        assert [left[name] for name in (RESULT_KEY, FAILURES_KEY)] == [
            finished[name] for name in (RESULT_KEY, FAILURES_KEY)
        ]
        assert files_in(elsewhere) == {}


def test_embedder_run_without_room_says_so_and_the_same_command_completes_once_there_is_some(
    disk: SmallDisk, tmp_path: Path, wide_tower: Path
) -> None:
    manifest = write_manifest(tmp_path, [str(path) for path in PHOTOS[:8]])
    environment = {"TMPDIR": str(disk.path), "EMBEDDER_DTYPE": "float32", "EMBEDDER_RETRIES": "0"}
    command = [*EMBEDDER, "run", str(manifest), str(disk.path / "run"), "--model", str(wide_tower)]
    # With no room, the folder of the logs cannot be made. With 8 pages, a worker's temporary file does not fit.
    for room, full in ((0, f"{disk.path}: {FULL}"), (8, f"chunk.h5: {FULL}")):
        disk.fill(leaving_pages=room)
        ended = run(command, environment, prefix=disk.prefix)
        assert ended.exit_code == ExitCode.TEMPORARY_FAILURE, ended.log
        assert full in ended.log
        assert "Traceback" not in ended.log
        assert [name for name in files_in(disk.outside) if name.startswith("run/")] == []
    disk.make_room()
    assert run(command, environment, prefix=disk.prefix).exit_code == 0
    assert read_result(open_store(str(disk.outside / "run"))).embeddings.shape == (8, 512)


def test_logs_that_fill_the_disk_end_embedder_run_and_its_workers_and_go_with_it(
    disk: SmallDisk, tmp_path: Path
) -> None:
    embedder = [str(PROGRAMS / "embedder_program.py"), "run", "list.csv", str(tmp_path / "run")]
    environment = {"TMPDIR": str(disk.path), "TEST_FOLDER": str(tmp_path), "TEST_BEHAVIOURS": '{"0": ["flood"]}'}
    ended = run(embedder, environment, prefix=disk.prefix)
    assert_out_of(ended, disk.path, f"chunk-0-attempt-1.log: {FULL}")
    assert files_in(disk.outside) == {}
    assert run(embedder, environment, prefix=disk.prefix).exit_code == 0


def test_a_worker_that_cannot_write_stores_nothing_and_completes_once_it_can(
    disk: SmallDisk, tmp_path: Path, wide_tower: Path
) -> None:
    manifest = write_manifest(tmp_path, [*(str(path) for path in PHOTOS[:8]), str(tmp_path / "gone.jpg")])
    undisturbed = worker_environment(manifest_uri=manifest, run_uri=tmp_path / "run", model=wide_tower, dtype="float32")
    assert run(WORKER, undisturbed).exit_code == 0
    environment = undisturbed | {"EMBEDDER_RUN_URI": str(disk.path / "run"), "TMPDIR": str(disk.path)}
    chunk = pages(files_in(tmp_path / "run")[chunk_key(0)])
    # The last room takes the chunk file in the temporary folder, and not the one in the store.
    for room, full in ((0, disk.path), (2, disk.path), (6, "chunk.h5"), (chunk + 6, chunk_key(0))):
        disk.fill(leaving_pages=room)
        assert_out_of(run(WORKER, environment, prefix=disk.prefix), disk.path, f"{full}: {FULL}")
        assert files_in(disk.outside) == {}
    disk.make_room()
    disk.remount("ro")
    assert_out_of(run(WORKER, environment, prefix=disk.prefix), disk.path, READ_ONLY)
    disk.remount("rw")
    assert run(WORKER, environment, prefix=disk.prefix).exit_code == 0
    assert files_in(disk.outside).keys() == {f"run/{chunk_key(0)}"}
    found, expected = read_chunk(disk.outside / "run"), read_chunk(tmp_path / "run")
    assert found.embeddings.tobytes() == expected.embeddings.tobytes()
    assert (found.urls, found.failures) == (expected.urls, expected.failures)


def test_a_temporary_folder_that_cannot_be_written_is_named_though_the_store_can(
    disk: SmallDisk, tmp_path: Path
) -> None:
    put_run(open_store(str(tmp_path / "run")), [3])
    environment = merger_environment(str(tmp_path / "run"), 1, {"TMPDIR": str(disk.path)})
    disk.remount("ro")
    assert_out_of(run(MERGER, environment, prefix=disk.prefix), disk.path, READ_ONLY)
    gone = run(MERGER, environment | {"TMPDIR": str(tmp_path / "gone")})
    assert gone.exit_code == ExitCode.CONFIG_ERROR
    assert f"TMPDIR is {tmp_path / 'gone'}" in gone.last_word
    assert files_in(tmp_path / "run").keys() == {chunk_key(0)}
    disk.remount("rw")
    assert run(MERGER, environment, prefix=disk.prefix).exit_code == 0


def test_a_merge_into_a_read_only_store_changes_nothing_and_completes_once_it_can_write(disk: SmallDisk) -> None:
    chunks = put_run(open_store(str(disk.outside / "run")), [3, 4], failed=1)
    before = files_in(disk.outside)
    environment = merger_environment(str(disk.path / "run"), 2, {})
    disk.remount("ro")
    assert_out_of(run(MERGER, environment, prefix=disk.prefix), disk.path, READ_ONLY)
    assert files_in(disk.outside) == before
    disk.remount("rw")
    assert run(MERGER, environment, prefix=disk.prefix).exit_code == 0
    assert_merged(open_store(str(disk.outside / "run")), chunks)


def test_a_limit_of_file_size_ends_a_merge_with_75_and_no_result(tmp_path: Path) -> None:
    put_run(open_store(str(tmp_path / "run")), [50, 50])
    before = files_in(tmp_path)
    environment = merger_environment(str(tmp_path / "run"), 2, {"TMPDIR": str(tmp_path)})
    assert_out_of(run(MERGER, environment, prefix=["prlimit", "--fsize=100000"]), tmp_path, "File too large")
    assert files_in(tmp_path) == before


def test_a_log_that_cannot_be_written_does_not_cost_the_work(tmp_path: Path) -> None:
    chunks = put_run(open_store(str(tmp_path / "run")), [3])
    environment = os.environ | merger_environment(str(tmp_path / "run"), 1, {})
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        code = subprocess.run([sys.executable, "-m", "merger"], env=environment, stderr=full, check=False).returncode
    assert code == 0
    assert_merged(open_store(str(tmp_path / "run")), chunks)
