"""Kills, full disks, too little memory, and files that do not read back: nothing appears under the export's name."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.errors import ExitCode, StoreUnavailable
from common.store import open_store
from results.export.encoding import no_bounds
from results.export.export import WORKING_BYTES
from results.export.faiss_form import FaissForm, FaissReading
from results.export.form import Block, Plan
from results.export.formats import Format, form_of
from results.export.number_type import NumberType
from results.export.rows_file import RowsFileReading, rows_file
from results.export.samples import Samples
from tests.resources.memory_group import memory_group
from tests.resources.program import EMBEDDER, run
from tests.resources.small_disk import small_disk
from tests.results.export.exports import hostile_run
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(".*.part"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 6,000 rows."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    merge_run(open_store(str(folder)), (6000,))
    return folder


def start(folder: Path, finished: Path, target: Format) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *EMBEDDER, "export", str(finished), str(folder / "out"), "--to", target.value],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )


def wait_for_files(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the export has begun to write."""
    while process.poll() is None and not any(list(part.iterdir()) for part in parts(folder) if part.exists()):
        time.sleep(0.002)


@pytest.mark.parametrize(
    "target",
    [Format.NPY, *(pytest.param(each, marks=pytest.mark.slow) for each in Format if each is not Format.NPY)],
)
def test_a_killed_export_leaves_no_export_and_the_next_one_removes_what_it_left(
    tmp_path: Path, finished: Path, target: Format
) -> None:
    with start(tmp_path, finished, target) as process:
        wait_for_files(tmp_path, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(parts(tmp_path)) == 1
    with start(tmp_path, finished, target) as process:
        assert process.wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stopped_export_leaves_nothing(tmp_path: Path, finished: Path) -> None:
    with start(tmp_path, finished, Format.USEARCH) as process:
        wait_for_files(tmp_path, process)
        process.terminate()
        _, said = process.communicate()
    assert process.returncode == ExitCode.STOPPED
    assert b"stopped by SIGTERM; nothing is half-written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", list(Format))
def test_a_full_disk_ends_an_export_with_a_sentence_and_leaves_nothing(tmp_path: Path, target: Format) -> None:
    hostile_run(open_store(str(tmp_path / "run")), (200,))
    with small_disk(tmp_path / "disk") as disk:
        command = [*EMBEDDER, "export", str(tmp_path / "run"), str(disk.path / "out"), "--to", target.value]
        # The vectors take 100 pages: with fewer it does not begin, with so many the texts have no room.
        for pages, said in ((50, "GB free, and the vectors alone take"), (101, "No space left on device")):
            disk.fill(leaving_pages=pages)
            ended = run(command, {}, prefix=disk.prefix)
            assert ended.exit_code == ExitCode.TEMPORARY_FAILURE, ended.log
            assert f"{disk.path}" in ended.log
            assert said in ended.log
            assert "Traceback" not in ended.log
            assert [path.name for path in disk.outside.iterdir()] == ["ballast"]
        disk.make_room()
        assert run(command, {}, prefix=disk.prefix).exit_code == 0
        assert [path.name for path in disk.outside.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("target", [Format.FAISS, Format.USEARCH])
def test_an_index_that_does_not_fit_in_memory_is_refused_before_it_is_begun(
    tmp_path: Path, finished: Path, target: Format
) -> None:
    with memory_group(WORKING_BYTES) as group:
        command = [*EMBEDDER, "export", str(finished), str(tmp_path / "out"), "--to", target.value]
        ended = run(command, {}, prefix=group.prefix)
        assert ended.exit_code == ExitCode.TEMPORARY_FAILURE, ended.log
        assert f"a {target} export holds the whole index in memory, about 0.3 GB, and 0." in ended.log
        assert "smaller --dtype, or --to parquet or npy" in ended.log
        # The forms that are streamed ask for nothing.
        command[-1] = "npy"
        assert run(command, {}, prefix=group.prefix).exit_code == 0


# Reading back


ROWS = 100


def write(folder: Path, target: Format, change: Callable[[Block], Block]) -> tuple[Samples, Plan]:
    """Write rows that a fault changes on their way, and return the samples of the right ones."""
    plan = Plan(
        rows=ROWS,
        dimensions=8,
        has_ids=True,
        number_type=NumberType.FLOAT32,
        bounds=no_bounds(8),
        rows_per_file=0,
        facts={},
    )
    vectors = np.random.default_rng(0).standard_normal((ROWS, 8), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    right = Block(0, vectors, [f"u{row}" for row in range(ROWS)], [f"i{row}" for row in range(ROWS)])
    samples = Samples(ROWS)
    samples.keep(right)
    with rows_file(folder, plan) as add:
        add(change(right))
        form_of(target).write(folder, plan, [change(right)])
    return samples, plan


def swap_vectors(block: Block) -> Block:
    return block._replace(vectors=np.ascontiguousarray(block.vectors[::-1]))


def bend_a_number(block: Block) -> Block:
    vectors = block.vectors.copy()
    vectors[-1, -1] += 1e-7
    return block._replace(vectors=vectors)


def lose_a_row(block: Block) -> Block:
    return Block(0, block.vectors[1:], block.urls[1:], (block.ids or [])[1:])


def swap_urls(block: Block) -> Block:
    return block._replace(urls=[block.urls[1], block.urls[0], *block.urls[2:]])


def change_an_id(block: Block) -> Block:
    return block._replace(ids=[*(block.ids or [])[:-1], "other"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap_vectors, "other vectors in rows 0 to 100"),
        (bend_a_number, "other vectors in rows 0 to 100"),
        (swap_urls, "other URLs or ids"),
        (change_an_id, "other URLs or ids"),
    ],
)
@pytest.mark.parametrize("target", list(Format))
def test_an_export_with_other_rows_is_not_believed(
    tmp_path: Path, target: Format, change: Callable[[Block], Block], said: str
) -> None:
    samples, plan = write(tmp_path, target, change)
    with pytest.raises(StoreUnavailable, match=rf"DEST reads back with {said}.*nothing is published"):
        samples.check(
            form_of(target).open(tmp_path, plan), RowsFileReading(tmp_path, plan), name="DEST", progress=lambda _: None
        )


@pytest.mark.parametrize("target", [Format.PARQUET, Format.FAISS, Format.USEARCH])
def test_an_export_with_fewer_rows_is_not_believed(tmp_path: Path, target: Format) -> None:
    samples, plan = write(tmp_path, target, lose_a_row)
    with pytest.raises(StoreUnavailable, match="DEST reads back with 99 rows, expected 100"):
        samples.check(form_of(target).open(tmp_path, plan), None, name="DEST", progress=lambda _: None)


def test_an_index_that_finds_other_rows_is_not_believed(tmp_path: Path) -> None:
    class Misled(FaissReading):
        def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
            return np.full(len(vectors), 5)

    samples, plan = write(tmp_path, Format.FAISS, lambda block: block)
    reading = Misled(tmp_path / FaissForm.file_name, plan)
    with pytest.raises(StoreUnavailable, match=r"a search that finds \d+ of \d+ sampled rows"):
        samples.check(reading, None, name="DEST", progress=lambda _: None)


def test_right_rows_are_believed(tmp_path: Path) -> None:
    for target in Format:
        samples, plan = write(tmp_path, target, lambda block: block)
        reading = form_of(target).open(tmp_path, replace(plan))
        samples.check(reading, RowsFileReading(tmp_path, plan), name="DEST", progress=lambda _: None)


# Memory


PEAK = (
    "import sys, re; from pathlib import Path; from embedder.cli import app\n"
    "app(sys.argv[1:], standalone_mode=False)\n"
    "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1], file=sys.stderr)\n"
)
"""A program that prints the peak of its memory in KiB."""


@pytest.mark.slow
def test_the_memory_of_an_export_does_not_grow_with_the_result(tmp_path: Path) -> None:
    """82 MB of vectors against 246 MB: medians of three, because equal exports differ by some 50 MB."""
    peaks = {}
    for name, chunks in (("small", 2), ("large", 6)):
        merge_run(open_store(str(tmp_path / name)), (20_000,) * chunks)
        for target in ("parquet", "npy"):
            found = []
            for number in range(3):
                place = str(tmp_path / f"{name}-{number}.{target}")
                command = [sys.executable, "-c", PEAK, "export", str(tmp_path / name), place, "--to", target]
                done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
                found.append(int(done.stderr.split()[-1]) << 10)
            peaks[name, target] = median(found)
    for target in ("parquet", "npy"):
        assert peaks["large", target] - peaks["small", target] < 80_000_000, peaks
    assert max(peaks.values()) < 600_000_000, peaks
