"""Runs to merge: chunk files as workers write them, and the datasets that a naive merge makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np

from common.format.chunk_file import Chunk, Failure, write_chunk
from common.format.provenance import Provenance
from common.format.reasons import Reason
from common.format.seal import SEAL_BYTES, seal
from common.run.keys import RESULT_KEY, SUMMARY_KEY, chunk_key
from merger.settings import MergerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from common.store.contract import Store

DIMENSIONS = 512


def provenance(chunk_count: int, **other: Any) -> Provenance:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "manifest": "3000-abc",
        "chunk_count": chunk_count,
        "model": "untrained",
        "model_revision": "",
        "weights": "w",
        "dtype": "float32",
        "preprocessing": "1",
        "rotation": True,
        "sources": "url",
    }
    return Provenance(**fields | other)


def make_chunk(
    index: int,
    rows: int,
    *,
    chunk_count: int,
    failed: int = 0,
    with_ids: bool = True,
    dimensions: int = DIMENSIONS,
    url_bytes: int = 0,
    **other: Any,  # noqa: ANN401 - any field of the provenance
) -> Chunk:
    """Return a chunk of random unit vectors. Its URLs are padded to `url_bytes`."""
    generator = np.random.default_rng([index, rows])
    vectors = generator.standard_normal((rows, dimensions), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Chunk(
        index=index,
        urls=[f"https://photos.example/{index}/{row}/é".ljust(url_bytes, "x") for row in range(rows)],
        ids=[f"{index}-{row}" for row in range(rows)] if with_ids else None,
        embeddings=vectors,
        failures=[
            Failure(row, f"https://photos.example/gone/{index}/{row}", Reason.NOT_FOUND, "404", f"gone-{row}")
            for row in range(failed)
        ],
        provenance=provenance(chunk_count, **other),
    )


def put_chunk(store: Store, chunk: Chunk) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chunk.h5"
        write_chunk(path, chunk)
        store.put_file(chunk_key(chunk.index), path)


def seal_again(path: Path) -> None:
    """Write a new seal into a chunk file that was changed."""
    data = path.read_bytes()
    path.write_bytes(seal(data[SEAL_BYTES:], size=len(data)) + data[SEAL_BYTES:])


def edit(store: Store, index: int, change: Callable[[h5py.File], None], tmp_path: Path) -> None:
    """Change a chunk file in the store, and seal it again."""
    path = tmp_path / "edited.h5"
    path.write_bytes(store.read(chunk_key(index)))
    with h5py.File(path, "r+") as file:
        change(file)
    seal_again(path)
    store.put_file(chunk_key(index), path)


def put_run(store: Store, sizes: Sequence[int], **options: Any) -> list[Chunk]:  # noqa: ANN401 - of make_chunk
    """Put chunks of these sizes into the store, and return them."""
    chunks = [make_chunk(index, rows, chunk_count=len(sizes), **options) for index, rows in enumerate(sizes)]
    for chunk in chunks:
        put_chunk(store, chunk)
    return chunks


class Datasets(NamedTuple):
    urls: NDArray[Any]
    ids: NDArray[Any] | None
    embeddings: NDArray[np.float32]


def naive_merge(chunks: Sequence[Chunk]) -> Datasets:
    urls = [url.encode() for chunk in chunks for url in chunk.urls]
    ids = [each.encode() for chunk in chunks for each in chunk.ids or []]
    vectors = [chunk.embeddings[:] for chunk in chunks if len(chunk.urls)]
    return Datasets(
        np.array(urls, dtype=None if urls else "S1"),
        None if chunks[0].ids is None else np.array(ids, dtype=None if ids else "S1"),
        np.concatenate(vectors) if vectors else np.zeros((0, chunks[0].embeddings.shape[1]), np.float32),
    )


def read_result(store: Store) -> Datasets:
    stat = store.stat(RESULT_KEY)
    assert stat is not None
    with store.open(RESULT_KEY, stat.size) as opened, h5py.File(opened, "r") as file:
        ids = file["ids"][:] if "ids" in file else None
        return Datasets(file["urls"][:], ids, file["embeddings"][:])


def assert_merged(store: Store, chunks: Sequence[Chunk]) -> None:
    """Check that the result's datasets are, byte for byte and type for type, those of the naive merge."""
    found, expected = read_result(store), naive_merge(chunks)
    for name, one, other in zip(Datasets._fields, found, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None and other is not None:
            assert one.dtype == other.dtype, name
            assert one.shape == other.shape, name
            assert one.tobytes() == other.tobytes(), name


def settings_for(store: Store, chunk_count: int, **options: Any) -> MergerSettings:  # noqa: ANN401 - any setting
    return MergerSettings(run_uri=store.uri, chunk_count=chunk_count, **options)


def read_summary(store: Store) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(store.read(SUMMARY_KEY))
    return summary


def merger_environment(store_uri: str, chunk_count: int, sdk: Mapping[str, str], **options: str) -> dict[str, str]:
    """Return the variables of a merger with these settings and SDK variables."""
    settings = {"run_uri": store_uri, "chunk_count": str(chunk_count), **options}
    return dict(sdk) | {f"EMBEDDER_{name}".upper(): value for name, value in settings.items()}


def run_merger(store_uri: str, chunk_count: int, sdk: Mapping[str, str], **options: str) -> subprocess.Popen[str]:
    """Start `python -m merger`."""
    return subprocess.Popen(
        [sys.executable, "-m", "merger"],
        env=os.environ | merger_environment(store_uri, chunk_count, sdk, **options),
        stderr=subprocess.PIPE,
        text=True,
    )
