"""The result as its consumer loads it, and the documents' examples, over a whole run of the example photos."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "examples" / "manifest.csv"
HAS_HNSWLIB = importlib.util.find_spec("hnswlib") is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `out` is the finished run of the example photos in 4 chunks."""
    folder = tmp_path_factory.mktemp("run")
    command = [str(Path(sys.executable).parent / "embedder"), "run", str(MANIFEST), "out", "--chunks", "4"]
    ended = subprocess.run(
        [*command, "--model", "untrained"], cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "out/Images_Embedded.h5" in ended.stdout
    assert "mean NOTHING" in ended.stderr + ended.stdout
    if HAS_HNSWLIB:
        ended = subprocess.run(
            [command[0], "index", "out"], cwd=folder, capture_output=True, text=True, timeout=280, check=False
        )
        assert ended.returncode == 0, ended.stderr
    return folder


def test_the_search_backend_finds_each_photo_as_its_own_neighbour(folder: Path) -> None:
    with h5py.File(folder / "out" / "Images_Embedded.h5", "r") as file:
        urls = [url.decode("utf-8") for url in file["urls"][:]]
        embeddings = file["embeddings"][:]
    with MANIFEST.open(newline="") as rows:
        assert urls == [row["url"] for row in csv.DictReader(rows)]
    assert embeddings.shape == (len(urls), 512)
    assert embeddings.dtype == np.float32
    if HAS_HNSWLIB:
        import hnswlib  # noqa: PLC0415

        index = hnswlib.Index(space="cosine", dim=512)
        index.init_index(max_elements=len(urls), ef_construction=200, M=16)
        index.add_items(embeddings, np.arange(len(urls)))
        nearest = index.knn_query(embeddings, k=1)[0][:, 0]
    else:
        nearest = (embeddings @ embeddings.T).argmax(axis=1)
    assert nearest.tolist() == list(range(len(urls)))


def test_the_counts_of_the_run_add_up(folder: Path) -> None:
    summary = json.loads((folder / "out" / "summary.json").read_text())
    with MANIFEST.open(newline="") as rows:
        assert summary["rows_requested"] == len(list(csv.DictReader(rows)))
    assert summary["rows_requested"] == summary["rows_embedded"] + summary["rows_failed"]
    with (folder / "out" / "failures.csv").open(newline="") as ledger:
        assert len(list(csv.DictReader(ledger))) == summary["rows_failed"]
    assert not list((folder / "out").glob("chunks/*"))


def test_the_documents_examples_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    text = "".join((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/result.md"))
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        if "hnswlib" in block and not HAS_HNSWLIB:
            continue
        exec(block, names)  # noqa: S102 - the documents' own code
    assert np.array_equal(np.asarray(names["mapped"]), np.asarray(names["vectors"]))
