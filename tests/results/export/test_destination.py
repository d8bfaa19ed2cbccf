"""What is at the destination stays, unless it is an export and --overwrite is given; an export appears whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pyarrow import parquet

from common.errors import ConfigError, RunUnfinished, StoreUnavailable
from common.process.leftovers import held
from common.run.keys import RESULT_KEY
from common.store import open_store
from results.export.destination import open_destination
from results.export.export import Exported, Order, export
from results.export.formats import Format
from results.export.number_type import NumberType
from results.export.progress import Step
from results.result import open_result
from tests.merger.runs import put_run
from tests.results.export.exports import Steps, export_run, hostile_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from common.store.contract import Store


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_only_when_that_is_asked_for(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    place = tmp_path / "out" / "v.npy"
    place.parent.mkdir()
    place.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"v\.npy exists; choose another DEST, or replace it with --overwrite"):
        export_run(store, place, Format.NPY)
    assert place.read_bytes() == b"mine"
    export_run(store, place, Format.NPY, overwrite=True)
    assert np.load(place).shape == (70, 512)
    assert names(place.parent) == {"v.npy"}


def test_a_folder_is_replaced_only_when_it_is_an_export(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "dear.jpg").write_bytes(b"dear")
    with pytest.raises(ConfigError, match="photos exists"):
        export_run(store, photos, Format.NPY)
    with pytest.raises(ConfigError, match=r"photos is not an export in a folder: it has no _export\.json"):
        export_run(store, photos, Format.NPY, overwrite=True)
    assert (photos / "dear.jpg").read_bytes() == b"dear"
    out = tmp_path / "out"
    export_run(store, out, Format.PARQUET, rows_per_file=10)
    with pytest.raises(ConfigError, match="out exists"):
        export_run(store, out, Format.NPY)
    export_run(store, out, Format.NPY, overwrite=True)
    assert names(out) == {"_export.json", "embeddings.npy", "metadata.parquet"}
    assert names(tmp_path) == {"run", "out", "photos"}


def test_a_folder_that_holds_more_than_an_export_is_not_replaced(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out" / "run"))
    hostile_run(store)
    export_run(store, tmp_path / "npy", Format.NPY)
    for path in (tmp_path / "npy").iterdir():
        path.rename(tmp_path / "out" / path.name)
    with pytest.raises(ConfigError, match="out holds more than an export, run for one, so it is not replaced"):
        export_run(store, tmp_path / "out", Format.NPY, overwrite=True)
    assert open_result(store).row_count == 70


def test_a_link_leads_to_the_export(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    export_run(store, tmp_path / "link", Format.NPY)
    export_run(store, tmp_path / "link", Format.NPY, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk") == {"out"}
    assert "embeddings.npy" in names(tmp_path / "disk" / "out")


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    (tmp_path / "out").mkdir()
    export_run(store, tmp_path / "out", Format.NPY)
    assert "embeddings.npy" in names(tmp_path / "out")


def test_a_folder_is_no_place_for_a_file_and_a_file_none_for_a_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    (tmp_path / "v.parquet").mkdir()
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"v\.parquet is a folder, and this export is one file"):
        export_run(store, tmp_path / "v.parquet", Format.PARQUET, overwrite=True)
    with pytest.raises(ConfigError, match="out is not an export"):
        export_run(store, tmp_path / "out", Format.PARQUET, overwrite=True)
    with pytest.raises(ConfigError, match="out/in cannot be written"):
        export_run(store, tmp_path / "out" / "in", Format.PARQUET)
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_the_ending_of_another_form_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    with pytest.raises(ConfigError, match=r"v\.faiss has the ending of a faiss export, and --to is npy"):
        export_run(store, tmp_path / "v.faiss", Format.NPY)


def test_what_a_killed_export_left_is_removed_by_the_next_and_what_another_one_uses_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)
    place = tmp_path / "place"
    place.mkdir()
    left, other = place / ".out.0123abcd.part", place / ".other.0123abcd.part"
    for each in (left, other):
        each.mkdir()
        (each / "embeddings.npy").write_bytes(b"half")

    def used() -> Path:
        folder = place / ".out.99999999.part"
        folder.mkdir()
        return folder

    with held(used) as folder:
        export_run(store, place / "out", Format.NPY)
        assert names(place) == {"out", folder.name, other.name}


def test_an_export_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)

    class Rival(Steps):
        """Puts something at the destination while the export is verified."""

        def __init__(self, appear: Callable[[], object]) -> None:
            super().__init__()
            self._appear = appear

        def begin(self, step: Step, total: int) -> None:
            super().begin(step, total)
            if step is Step.VERIFYING:
                self._appear()

    file, folder = tmp_path / "v.npy", tmp_path / "out"
    with pytest.raises(ConfigError, match=r"v\.npy exists"):
        export_run(store, file, Format.NPY, progress=Rival(lambda: file.write_bytes(b"theirs")))
    with pytest.raises(ConfigError, match="out exists"):
        export_run(store, folder, Format.NPY, progress=Rival(lambda: (folder / "in").mkdir(parents=True)))
    assert file.read_bytes() == b"theirs"
    assert names(tmp_path) == {"run", "v.npy", "out"}


def test_a_result_that_is_replaced_meanwhile_is_not_exported(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    hostile_run(store)

    class Merge(Steps):
        def begin(self, step: Step, total: int) -> None:
            super().begin(step, total)
            if step is Step.VERIFYING:
                os.utime(tmp_path / "run" / RESULT_KEY, ns=(1, 1))

    with pytest.raises(StoreUnavailable, match="was replaced while it was exported; export it again"):
        export_run(store, tmp_path / "out", Format.NPY, progress=Merge())
    assert names(tmp_path) == {"run"}


def test_a_run_that_is_not_finished_is_not_exported(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    put_run(store, (3,))
    with pytest.raises(RunUnfinished, match="has no finished result"):
        export_run(store, tmp_path / "out", Format.NPY)


@pytest.fixture
def bucket_run(bucket: str) -> Store:
    store = open_store(f"s3://{bucket}/run")
    hostile_run(store)
    return store


def test_an_export_in_a_bucket_is_replaced_only_when_it_is_one(bucket_run: Store, bucket: str) -> None:
    place = f"s3://{bucket}/out"
    export_run(bucket_run, place, Format.PARQUET, rows_per_file=30)
    exported = open_store(place)
    parts = {"embeddings-00000.parquet", "embeddings-00001.parquet", "embeddings-00002.parquet"}
    assert {found.key for found in exported.list("")} == {"_export.json", *parts}
    with pytest.raises(ConfigError, match="out exists"):
        export_run(bucket_run, place, Format.PARQUET)
    export_run(bucket_run, place, Format.PARQUET, rows_per_file=50, overwrite=True)
    assert {found.key for found in exported.list("")} == {"_export.json", *sorted(parts)[:2]}
    exported.put_bytes("run/dear.jpg", b"dear")
    with pytest.raises(ConfigError, match=r"out holds more than an export, run/dear\.jpg for one"):
        export_run(bucket_run, place, Format.PARQUET, overwrite=True)
    with pytest.raises(ConfigError, match="run holds more than an export"):
        export_run(bucket_run, bucket_run.uri, Format.PARQUET, overwrite=True)


def test_what_a_killed_upload_left_is_replaced_when_that_is_asked_for(bucket_run: Store, bucket: str) -> None:
    exported = open_store(f"s3://{bucket}/out")
    exported.put_bytes("embeddings-00007.parquet", b"half")
    with pytest.raises(ConfigError, match="out exists; choose another DEST, or replace it with --overwrite"):
        export_run(bucket_run, exported.uri, Format.NPY)
    export_run(bucket_run, exported.uri, Format.NPY, overwrite=True)
    assert {found.key for found in exported.list("")} == {"_export.json", "embeddings.npy", "metadata.parquet"}


def test_a_file_in_a_bucket_is_one_object(bucket_run: Store, bucket: str, tmp_path: Path) -> None:
    place = f"s3://{bucket}/tables/v.parquet"
    export_run(bucket_run, place, Format.PARQUET)
    (tmp_path / "v.parquet").write_bytes(open_store(f"s3://{bucket}/tables").read("v.parquet"))
    assert parquet.read_metadata(tmp_path / "v.parquet").num_rows == 70
    with pytest.raises(ConfigError, match=r"v\.parquet exists"):
        export_run(bucket_run, place, Format.PARQUET)
    export_run(bucket_run, place, Format.PARQUET, NumberType.FLOAT16, overwrite=True)


@pytest.mark.slow
def test_a_large_file_reaches_a_bucket_in_parts(bucket: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    rows = hostile_run(store, (20_000, 20_000))

    def to_bucket() -> Exported:
        place = open_destination(f"s3://{bucket}/v.npy", is_file=True, may_replace=False)
        order = Order(target=Format.NPY, number_type=NumberType.FLOAT32, is_file=True)
        return export(open_result(store), order, place, Steps())

    exported = to_bucket()
    assert exported.size > 80_000_000
    (tmp_path / "v.npy").write_bytes(open_store(f"s3://{bucket}").read("v.npy"))
    assert np.load(tmp_path / "v.npy").tobytes() == rows.vectors.tobytes()
    with pytest.raises(ConfigError, match=r"v\.npy exists"):
        to_bucket()
