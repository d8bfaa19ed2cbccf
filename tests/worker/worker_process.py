"""Runs `python -m worker` as a pod does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py

from common.format.chunk_file import read_header
from common.logs import LogLine, parse_line
from common.run.keys import chunk_key
from common.store import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from common.format.chunk_file import ChunkHeader
    from common.store.contract import Store

ROOT = Path(__file__).parents[2]
PHOTOS = sorted(path for path in (ROOT / "examples" / "photos").iterdir() if path.suffix != ".md")

WORKER_SECONDS = 120
"""Longest time that a test waits for a worker, in seconds: far more than any of these chunks takes."""


class Ended(NamedTuple):
    exit_code: int
    log: str

    @property
    def lines(self) -> list[LogLine]:
        return [line for text in self.log.splitlines() if (line := parse_line(text)) is not None]

    def events(self, name: str) -> list[LogLine]:
        return [line for line in self.lines if line.event == name]

    @property
    def last_word(self) -> str:
        """The message of the log's last line."""
        return self.lines[-1].values["message"]


def worker_environment(*, index: int = 0, **settings: object) -> dict[str, str]:
    """Return the environment of a pod. The settings are given by their Python names.

    Without the setting `model`, the model is that of this process's EMBEDDER_MODEL, else `untrained`.
    """
    model = os.environ.get("EMBEDDER_MODEL", "untrained")
    defaults: dict[str, object] = {"chunk_count": 1, "model": model, "allow_private_hosts": True}
    named = {f"EMBEDDER_{name.upper()}": str(value) for name, value in (defaults | settings).items()}
    return dict(os.environ) | {"JOB_COMPLETION_INDEX": str(index)} | named


def start_worker(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "worker"], env=dict(environment), stderr=subprocess.PIPE, text=True, cwd="/"
    )


def run_worker(*, index: int = 0, **settings: object) -> Ended:
    """Run a worker to its end. The settings are given by their Python names."""
    with start_worker(worker_environment(index=index, **settings)) as process:
        _, log = process.communicate(timeout=WORKER_SECONDS)
        return Ended(process.returncode, log)


class ChunkContent(NamedTuple):
    urls: list[str]
    ids: list[str] | None
    embeddings: NDArray[np.float32]
    failures: dict[str, str]
    """The reason of each failure, by URL."""


def read_chunk(run_uri: str | Path, index: int = 0) -> ChunkContent:
    """Return the content of the chunk's file in the store, and check its counts."""
    store = open_store(str(run_uri))
    stat = store.stat(chunk_key(index))
    if stat is None:
        raise FileNotFoundError(store.location(chunk_key(index)))
    with store.open(stat.key, stat.size) as opened:
        header = read_header(opened, name=stat.key)
        with h5py.File(opened, "r") as file:
            failures = file["failures"]
            content = ChunkContent(
                urls=[url.decode() for url in file["urls"][:]],
                ids=[each.decode() for each in file["ids"][:]] if "ids" in file else None,
                embeddings=file["embeddings"][:],
                failures={
                    url.decode(): reason.decode()
                    for url, reason in zip(failures["url"][:], failures["reason"][:], strict=True)
                },
            )
    assert header.requested == header.embedded + header.failed
    assert header.embedded == len(content.urls) == len(content.embeddings)
    return content


def read_header_of(store: Store, index: int) -> ChunkHeader:
    """Return the header of the chunk's file in the store."""
    stat = store.stat(chunk_key(index))
    if stat is None:
        raise FileNotFoundError(store.location(chunk_key(index)))
    with store.open(stat.key, stat.size) as opened:
        return read_header(opened, name=stat.key)


def object_keys(store: Store) -> list[str]:
    return sorted(found.key for found in store.list(""))


def write_manifest(folder: Path, urls: Sequence[str], name: str = "manifest.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"{url}\n" for url in urls), "utf-8")
    return path
