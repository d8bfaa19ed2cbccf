"""Where memory is short, a good file is never called damaged, and HDF5 never crashes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from common.format.checkpoint_file import Checkpoint, checkpoint_bytes
from common.format.chunk_file import write_chunk
from common.store import open_store
from merger.merge import merge
from tests.merger.runs import make_chunk, provenance, put_run, settings_for

ROOT = Path(__file__).parents[3]

READ_WITH_LITTLE_MEMORY = """
    # Reads each file in a fork that gets no more memory than so many KiB, and says what came of it.
    import os, resource, sys
    from pathlib import Path
    from common.errors import ChunkInvalid
    from common.format.checkpoint_file import read_checkpoint
    from common.format.chunk_file import read_header
    from common.format.merged_chunks import read_contents
    from common.format.result_file import read_result

    def size():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmSize"))

    def read_checkpoint_of(file, *, name):
        return read_checkpoint(file.read(), name=name)

    readers = {"chunk": [read_header], "checkpoint": [read_checkpoint_of], "result": [read_result, read_contents]}
    for path in map(Path, sys.argv[1].split(":")):
        for read in readers[path.stem.partition("-")[0]]:
            for kibibytes in map(int, sys.argv[2:]):
                child = os.fork()
                if child:
                    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                    if code:
                        print(f"{path.stem} {read.__name__} {kibibytes} died:{code}", flush=True)
                    continue
                with path.open("rb") as file:
                    resource.setrlimit(resource.RLIMIT_AS, (size() + (kibibytes << 10),) * 2)
                    try:
                        read(file, name="file")
                        outcome = "read"
                    except MemoryError:
                        outcome = "memory"
                    except ChunkInvalid as error:
                        outcome = f"damaged:{error}"
                os.write(1, f"{path.stem} {read.__name__} {kibibytes} {outcome}\\n".encode())
                os._exit(0)
"""


def outcomes(paths: list[Path], *kibibytes: int) -> list[list[str]]:
    """Return file, function, memory and outcome of each read."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", textwrap.dedent(READ_WITH_LITTLE_MEMORY), ":".join(map(str, paths))),
            *map(str, kibibytes),
        ],
        # Freed memory goes back to the system, so that every allocation meets the limit.
        env=os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "4096"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return [line.split(" ", 3) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A chunk file, a checkpoint and a result."""
    folder = tmp_path_factory.mktemp("files")
    chunk = make_chunk(0, 300, chunk_count=1, failed=10)
    write_chunk(folder / "chunk.h5", chunk)
    vectors = np.asarray(chunk.embeddings[:])
    checkpoint = Checkpoint(
        index=0, requested=310, rows=np.arange(300), vectors=vectors, provenance=provenance(1), attempt=None
    )
    (folder / "checkpoint.h5").write_bytes(checkpoint_bytes(checkpoint))
    store = open_store(str(folder / "run"))
    put_run(store, [300])
    merge(store, settings_for(store, 1))
    (folder / "result.h5").write_bytes(store.read("Images_Embedded.h5"))
    return [folder / "chunk.h5", folder / "checkpoint.h5", folder / "result.h5"]


def test_a_good_file_is_not_called_damaged_where_memory_is_short(files: list[Path]) -> None:
    found = outcomes(files, *range(0, 800, 100), 2000, 16_000, 33_000, 100_000)
    assert [read for read in found if read[3] not in {"read", "memory"}] == []
    assert {read[3] for read in found} == {"read", "memory"}


def test_a_damaged_file_is_called_damaged_where_memory_is_left(files: list[Path], tmp_path: Path) -> None:
    damaged = []
    for path in files:
        damaged.append(tmp_path / f"{path.stem}-damaged.h5")
        damaged[-1].write_bytes(path.read_bytes()[:-1000])
    found = outcomes(damaged, 100_000)
    assert len(found) == 4
    assert [read for read in found if not read[3].startswith("damaged:")] == []
