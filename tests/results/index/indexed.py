"""Runs with an index, and a search backend that knows nothing of the embedder."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import h5py
import hnswlib

from common.run.keys import INDEX_KEY, RESULT_KEY, SUMMARY_KEY
from common.run.summary import read_summary
from results.index.job import make_index
from results.index.settings import IndexSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from common.run.summary import IndexSummary
    from common.store.contract import Store
    from results.index.job import AlreadyBuilt, Built, NothingToIndex


def settings_of(store: Store, **options: Any) -> IndexSettings:  # noqa: ANN401 - any setting
    return IndexSettings(run_uri=store.uri, **options)


def index(store: Store, **options: Any) -> Built | AlreadyBuilt | NothingToIndex:  # noqa: ANN401 - any setting
    return make_index(store, settings_of(store, **options))


def described(store: Store) -> IndexSummary | None:
    summary = read_summary(store)
    assert summary is not None
    return summary.index


def start_index(store: Store, sdk: Mapping[str, str] | None = None, **options: object) -> subprocess.Popen[str]:
    """Start `python -m results.index`."""
    variables = {"RUN_URI": store.uri, **{name.upper(): str(value) for name, value in options.items()}}
    return subprocess.Popen(
        [sys.executable, "-m", "results.index"],
        env=os.environ | dict(sdk or {}) | {f"EMBEDDER_{name}": value for name, value in variables.items()},
        stderr=subprocess.PIPE,
        text=True,
    )


def downloaded(store: Store, folder: Path) -> Path:
    """Return a folder with the result and its index as files."""
    folder.mkdir(exist_ok=True)
    for key in (RESULT_KEY, INDEX_KEY, SUMMARY_KEY):
        if store.stat(key) is not None:
            (folder / key).write_bytes(store.read(key))
    return folder


class SearchBackend:
    """What a search backend does with H5_FILE_PATH: it loads texts and vectors, and the index that lies beside them."""

    def __init__(self, h5_file_path: Path) -> None:
        with h5py.File(h5_file_path, "r") as file:
            self.urls = [url.decode("utf-8") for url in file["urls"][:]]
            self.embeddings = file["embeddings"][:]
        index_path = h5_file_path.with_suffix(".bin")
        self.loaded_index = index_path.exists()
        self.index = hnswlib.Index(space="cosine", dim=self.embeddings.shape[1])
        if self.loaded_index:
            self.index.load_index(str(index_path))
        else:
            self.index.init_index(max_elements=2_000_000, ef_construction=400, M=200)
            self.index.add_items(self.embeddings)

    def search(self, query: NDArray[np.float32], count: int) -> Sequence[tuple[str, float]]:
        labels, distances = self.index.knn_query(query, k=count)
        return [(self.urls[label], float(1 - far)) for label, far in zip(labels[0], distances[0], strict=True)]
