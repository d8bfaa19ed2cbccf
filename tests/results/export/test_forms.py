"""Each form is opened as people open it: by pyarrow, NumPy, FAISS and USearch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
from pyarrow import parquet
from usearch.index import Index

from common.run.keys import RESULT_KEY
from common.store import open_store
from results.export.formats import Format
from results.export.number_type import NumberType
from results.export.progress import Step
from results.result import open_result
from tests.results.export.exports import Steps, export_run, hostile_run

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from common.store.contract import Store
    from tests.results.export.exports import Rows

TYPES = list(NumberType)
PARQUET_TYPES = {NumberType.FLOAT32: pa.float32(), NumberType.FLOAT16: pa.float16(), NumberType.INT8: pa.int8()}


def assert_near(
    found: NDArray[Any], expected: NDArray[np.float32], number_type: NumberType, *, step: float = 0
) -> None:
    """Compare vectors: to the bit as float32, else within what the type can hold."""
    match number_type:
        case NumberType.FLOAT32:
            assert found.astype(np.float32).tobytes() == expected.tobytes()
        case NumberType.FLOAT16:
            assert (np.abs(found - expected) <= np.maximum(np.abs(expected) * 2.0**-11, 2.0**-25) * 1.001).all()
        case NumberType.INT8:
            assert np.abs(found - expected).max() <= step * 1.001


def facts_of(folder: Path) -> dict[str, object]:
    facts: dict[str, object] = json.loads((folder / "_export.json").read_text("utf-8"))
    return facts


def assert_texts(table: pa.Table, rows: Rows) -> None:
    assert table["row"].to_pylist() == list(range(len(rows.urls)))
    assert table["url"].to_pylist() == rows.urls
    assert table.schema.names == [
        "row",
        "url",
        *(["id"] if rows.ids else []),
        *table.schema.names[2 + bool(rows.ids) :],
    ]
    if rows.ids:
        assert table["id"].to_pylist() == rows.ids


@pytest.mark.parametrize("with_ids", [True, False], ids=["ids", "no-ids"])
@pytest.mark.parametrize("number_type", TYPES)
def test_a_parquet_export_is_the_table_of_the_rows(tmp_path: Path, number_type: NumberType, with_ids: bool) -> None:
    store = open_store(str(tmp_path / "run"))
    rows = hostile_run(store, with_ids=with_ids)
    exported = export_run(store, tmp_path / "out.parquet", Format.PARQUET, number_type)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert_texts(table, rows)
    assert table.schema.field("embedding").type == pa.list_(
        pa.field("element", PARQUET_TYPES[number_type], nullable=False), 512
    )
    facts = json.loads(table.schema.metadata[b"embedder"])
    assert facts["fingerprint"] == open_result(store).provenance.fingerprint
    assert facts["scale"] == exported.scale
    numbers = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 512)
    scale = exported.scale or 1
    assert_near(numbers * scale if exported.scale else numbers, rows.vectors, number_type, step=scale / 2)
    if number_type is NumberType.INT8:
        # Each number takes one byte, and none is cut off.
        assert exported.size < 512 * len(rows.urls) + 20_000
        assert np.abs(numbers.astype(int)).max() == 127


@pytest.mark.parametrize(("rows_per_file", "files"), [(25, 3), (70, 1), (1, 70), (1000, 1)])
def test_a_parquet_export_in_several_files_is_one_table(tmp_path: Path, rows_per_file: int, files: int) -> None:
    store = open_store(str(tmp_path / "run"))
    rows = hostile_run(store)
    export_run(store, tmp_path / "out", Format.PARQUET, rows_per_file=rows_per_file)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == files
    # pyarrow and pandas read the folder, in which _export.json is no part of the table.
    table = pa.dataset.dataset(tmp_path / "out").to_table()
    assert_texts(table, rows)
    assert_texts(parquet.read_table(tmp_path / "out"), rows)
    numbers = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 512)
    assert numbers.tobytes() == rows.vectors.tobytes()


@pytest.mark.parametrize("number_type", TYPES)
def test_a_numpy_export_is_mapped_by_numpy(tmp_path: Path, number_type: NumberType) -> None:
    store = open_store(str(tmp_path / "run"))
    rows = hostile_run(store)
    exported = export_run(store, tmp_path / "out", Format.NPY, number_type)
    array = np.load(tmp_path / "out" / "embeddings.npy", mmap_mode="r")
    assert isinstance(array, np.memmap)
    assert (array.shape, array.dtype) == ((70, 512), np.dtype(number_type.value))
    assert facts_of(tmp_path / "out")["scale"] == exported.scale
    scale = exported.scale or 1
    assert_near(array * scale if exported.scale else array, rows.vectors, number_type, step=scale / 2)
    assert_texts(parquet.read_table(tmp_path / "out" / "metadata.parquet"), rows)


@pytest.mark.parametrize("number_type", TYPES)
def test_a_faiss_export_finds_the_rows_by_cosine_at_once(tmp_path: Path, number_type: NumberType) -> None:
    store = open_store(str(tmp_path / "run"))
    rows = hostile_run(store, with_ids=False)
    export_run(store, tmp_path / "out", Format.FAISS, number_type)
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    assert (index.ntotal, index.d, index.metric_type) == (70, 512, faiss.METRIC_INNER_PRODUCT)
    step = float((rows.vectors.max(axis=0) - rows.vectors.min(axis=0)).max()) / 255 / 2
    assert_near(index.reconstruct_n(0, 70), rows.vectors, number_type, step=step)
    scores, found = index.search(rows.vectors, 3)
    assert found[:, 0].tolist() == list(range(70))
    assert scores[:, 0] == pytest.approx(np.ones(70), abs=0.01)
    assert_texts(parquet.read_table(tmp_path / "out" / "metadata.parquet"), rows)


@pytest.mark.parametrize("number_type", TYPES)
def test_a_usearch_export_finds_the_rows_by_their_numbers(tmp_path: Path, number_type: NumberType) -> None:
    store = open_store(str(tmp_path / "run"))
    rows = hostile_run(store)
    export_run(store, tmp_path / "out", Format.USEARCH, number_type)
    index = Index.restore(str(tmp_path / "out" / "index.usearch"), view=True)
    assert index is not None
    assert (len(index), index.ndim) == (70, 512)
    vectors = np.asarray(index.get(np.arange(70, dtype=np.uint64), np.float32))
    assert_near(vectors, rows.vectors, number_type, step=1 / 127)
    found = index.search(rows.vectors, 3)
    assert found.keys[:, 0].tolist() == list(range(70))
    assert found.distances[:, 0] == pytest.approx(np.zeros(70), abs=0.01)
    assert_texts(parquet.read_table(tmp_path / "out" / "metadata.parquet"), rows)


@pytest.mark.parametrize("number_type", TYPES)
@pytest.mark.parametrize("target", list(Format))
def test_a_result_without_rows_is_an_export_without_rows(
    tmp_path: Path, target: Format, number_type: NumberType
) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store, (0,))
    assert export_run(store, tmp_path / "out", target, number_type).rows == 0
    match target:
        case Format.PARQUET:
            assert parquet.read_table(tmp_path / "out").schema.names == ["row", "url", "id", "embedding"]
        case Format.NPY:
            assert np.load(tmp_path / "out" / "embeddings.npy", mmap_mode="r").shape == (0, 512)
        case Format.FAISS:
            assert faiss.read_index(str(tmp_path / "out" / "index.faiss")).ntotal == 0
        case Format.USEARCH:
            assert len(Index(ndim=512, path=str(tmp_path / "out" / "index.usearch"), view=True)) == 0


@pytest.mark.parametrize(
    ("target", "name"),
    [(Format.PARQUET, "v.parquet"), (Format.NPY, "v.npy"), (Format.FAISS, "v.index"), (Format.USEARCH, "v.usearch")],
)
def test_a_destination_with_the_forms_ending_is_one_file(tmp_path: Path, target: Format, name: str) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    exported = export_run(store, tmp_path / "new" / name, target)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]
    assert exported.size == (tmp_path / "new" / name).stat().st_size


def test_the_facts_of_an_export_name_the_result_and_what_made_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    export_run(store, tmp_path / "out", Format.NPY, NumberType.INT8)
    facts = facts_of(tmp_path / "out")
    assert (facts["format"], facts["dtype"], facts["rows"], facts["dimensions"]) == ("npy", "int8", 70, 512)
    assert facts["result"] == store.location(RESULT_KEY)
    assert isinstance(facts["provenance"], dict)
    assert facts["provenance"]["model"] == "untrained"


@pytest.mark.parametrize("target", list(Format))
def test_twins_are_found_though_a_search_may_name_the_other_one(tmp_path: Path, target: Format) -> None:
    store = open_store(str(tmp_path / "run"))
    rows = hostile_run(store, (120,), pictures=3)
    assert len(np.unique(rows.vectors, axis=0)) == 3
    export_run(store, tmp_path / "out", target)


def test_the_progress_counts_every_row_of_every_step(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    steps = Steps()
    export_run(store, tmp_path / "out", Format.FAISS, NumberType.INT8, progress=steps)
    assert list(steps.totals) == [Step.MEASURING, Step.WRITING, Step.SAVING, Step.VERIFYING]
    assert steps.done == steps.totals == {**steps.totals, Step.MEASURING: 70, Step.WRITING: 70, Step.SAVING: 0}


@pytest.mark.parametrize("target", list(Format))
def test_a_run_of_either_store_is_exported_to_either_store(store: Store, tmp_path: Path, target: Format) -> None:
    rows = hostile_run(store)
    place = tmp_path / "out" if store.uri.startswith("/") else f"{store.uri}-exported"
    export_run(store, place, target)
    exported = open_store(str(place))
    keys = {found.key for found in exported.list("")}
    assert "_export.json" in keys
    texts = "embeddings.parquet" if target is Format.PARQUET else "metadata.parquet"
    assert keys == {"_export.json", texts, *(keys - {texts})}
    table = parquet.read_table(pa.BufferReader(exported.read(texts)))
    assert_texts(table, rows)
