"""`embedder run` with damaged chunk files in the store, with the real worker and the real merger."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from common.format.chunk_file import read_header
from common.logs import parse_line
from common.run.keys import RESULT_KEY, chunk_key
from tests.worker.worker_process import ROOT, read_chunk

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 4


def embedder_run(run: Path, logs: Path, *options: str) -> str:
    """Embed the photos of the examples in COUNT chunks, and return the log."""
    ended = subprocess.run(
        [
            *(
                sys.executable,
                "-c",
                "from embedder.cli import main; main()",
                "run",
                str(ROOT / "examples" / "manifest.csv"),
                str(run),
            ),
            *("--chunks", str(COUNT), "--model", "untrained", "--parallelism", "2", "--log-dir", str(logs), *options),
        ],
        env=os.environ | {"EMBEDDER_KEEP_CHUNKS": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


@pytest.mark.slow
def test_exactly_the_damaged_chunks_are_computed_again_and_the_result_is_that_of_undamaged_ones(tmp_path: Path) -> None:
    run = tmp_path / "run"
    embedder_run(run, tmp_path / "first", "--no-merge")
    files = [run / chunk_key(index) for index in range(COUNT)]
    before = [read_chunk(run, index) for index in range(COUNT)]

    # Chunk 1 loses a part of its header. Chunk 2 has a whole header and a damaged URL.
    files[1].write_bytes(files[1].read_bytes()[:5000])
    data = bytearray(files[2].read_bytes())
    with files[2].open("rb") as file:
        data[read_header(file, name="chunk 2").spans["urls"].offset + 3] ^= 4
    files[2].write_bytes(data)
    versions = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]

    log = embedder_run(run, tmp_path / "second")
    mended = [
        (file.stat().st_ino, file.stat().st_mtime_ns) != version for file, version in zip(files, versions, strict=True)
    ]
    assert mended == [False, True, True, False]
    for index, chunk in enumerate(before):
        again = read_chunk(run, index)
        assert again.urls == chunk.urls
        assert again.embeddings.tobytes() == chunk.embeddings.tobytes()
    assert (run / RESULT_KEY).exists()
    events = [line.event for text in log.splitlines() if (line := parse_line(text)) is not None]
    assert events.count("mending") == 1
    # Chunk 0 was the reference chunk. Chunk 3 needed no worker.
    assert {path.name.split("-")[1] for path in (tmp_path / "second").glob("chunk-*")} == {"0", "1", "2"}
