"""A run of two chunks in which some images failed, and its top-up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py

from common.format.chunk_file import read_header
from common.run.keys import chunk_key
from common.store import open_store
from merger.merge import merge
from tests.image_server import answer
from tests.merger.runs import make_chunk, put_chunk, settings_for
from tests.worker.images import encoded, noise
from tests.worker.worker_process import run_worker, start_worker, worker_environment, write_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from subprocess import Popen

    from common.format.chunk_file import ChunkHeader
    from common.store.contract import Store
    from tests.image_server import Behaviour, ImageServer
    from tests.worker.worker_process import Ended

CHUNKS = 2
ROWS = 100
"""Number of rows of a chunk."""

FAILING = range(0, ROWS, 20)
"""The rows of each chunk whose source was down at first: 5 %."""

GONE = (7, 55)
"""The rows of each chunk whose images are gone for good."""


class RunWithFailures:
    """Chunk 1 of the run as a worker stored it while 5 % of its images could not be fetched, and without that.

    Chunk 0 is made up, with failures of its own.
    """

    def __init__(self, server: ImageServer, folder: Path, model: Path) -> None:
        self.server, self.folder, self.model = server, folder, model
        bodies = [encoded(noise("RGB", 40, 40, seed=seed), "JPEG") for seed in range(16)]
        self._good = [answer(bodies[row % len(bodies)]) for row in range(ROWS)]
        urls = [server.url(f"/{chunk}/{row:03}.jpg") for chunk in range(CHUNKS) for row in range(ROWS)]
        self.manifest = write_manifest(folder, urls)
        self.failed, self.whole = (open_store(str(folder / name)) for name in ("failed", "whole"))
        self.serve(answer(status=503))
        # One site serves the good and the bad images, and must not slow down for the bad ones.
        self._compute(self.failed, fetch_attempts=1, min_rate_per_site=100)
        self.serve()
        self._compute(self.whole)

    def serve(self, failing: Behaviour | None = None) -> None:
        """Let the server answer like this for the failing rows, well by default, and forget the requests so far."""
        for row in range(ROWS):
            if row not in GONE:
                self.server.on(f"/1/{row:03}.jpg", failing if failing and row in FAILING else self._good[row])
        self.server.requests.clear()

    @property
    def requested(self) -> list[str]:
        """The paths of all requests since the last change of the server."""
        return sorted(request.rel_url.raw_path for request in self.server.requests)

    @property
    def failing_paths(self) -> list[str]:
        return [f"/1/{row:03}.jpg" for row in FAILING]

    def settings(self, store: Store, **other: object) -> dict[str, Any]:
        return {
            "run_uri": store.uri,
            "manifest_uri": self.manifest,
            "model": self.model,
            "chunk_count": CHUNKS,
            "decode_threads": 1,
            **other,
        }

    def _compute(self, store: Store, **other: object) -> None:
        ended = run_worker(index=1, **self.settings(store, **other))
        assert ended.exit_code == 0, ended.log
        of_chunk_1 = header(store)
        made_up = make_chunk(
            0, ROWS - 3, chunk_count=CHUNKS, failed=3, with_ids=False, dimensions=of_chunk_1.dimensions
        )
        put_chunk(store, replace(made_up, provenance=of_chunk_1.provenance))

    def start_top_up(self, store: Store, *, sdk: Mapping[str, str]) -> Popen[str]:
        """Start a top-up with the SDK's variables that lead to the store."""
        return start_worker(worker_environment(index=1, **self.settings(store, top_up=True)) | dict(sdk))

    def top_up(self, store: Store, **other: object) -> Ended:
        return run_worker(index=1, **self.settings(store, top_up=True, **other))

    def put(self, store: Store, *, is_merged: bool = False) -> None:
        """Put the chunks with failures into a store, and merge them there."""
        for index in range(CHUNKS):
            store.put_bytes(chunk_key(index), self.failed.read(chunk_key(index)))
        if is_merged:
            merge(store, settings_for(store, CHUNKS))
            assert store.stat(chunk_key(1)) is None


def header(store: Store) -> ChunkHeader:
    stat = store.stat(chunk_key(1))
    assert stat is not None
    with store.open(stat.key, stat.size) as file:
        return read_header(file, name=stat.key)


def datasets(store: Store) -> dict[str, bytes]:
    """Return the bytes of all datasets of chunk 1, with their types and shapes."""
    stat = store.stat(chunk_key(1))
    assert stat is not None
    found: dict[str, bytes] = {}
    with store.open(stat.key, stat.size) as opened, h5py.File(opened, "r") as file:

        def note(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = f"{item.dtype} {item.shape} ".encode() + item[()].tobytes()

        file.visititems(note)
    return found
