"""Workers whose manifest is a folder of pictures or a prefix of a bucket."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from common.errors import ExitCode
from common.format.reasons import Reason
from common.store import open_store
from merger.merge import merge
from merger.settings import MergerSettings
from tests.cloud_doubles import cloud_double
from tests.worker.worker_process import PHOTOS, object_keys, read_chunk, run_worker

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client


@pytest.fixture(autouse=True)
def _quick_model(quick_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDER_MODEL", str(quick_clip))


def folder_of_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number, photo in enumerate(PHOTOS[:count]):
        shutil.copyfile(photo, folder / f"{number}.jpg")
    return folder


@pytest.mark.slow
def test_a_folder_of_photos_is_embedded_and_a_bad_one_is_a_row_of_the_ledger(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path / "my photos", 3)
    (folder / "empty.jpg").touch()
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "line\nbreak #1 %41.jpg").write_bytes(PHOTOS[0].read_bytes())
    ended = run_worker(manifest_uri=folder, run_uri=folder / "out", max_failure_ratio=1)
    assert ended.exit_code == 0, ended.log
    assert re.search(r"manifest=.*my photos.* files=6", ended.log)
    chunk = read_chunk(folder / "out")
    assert {"0.jpg", "1.jpg", "2.jpg"} <= set(chunk.urls)
    assert chunk.failures["empty.jpg"] == Reason.NOT_AN_IMAGE
    assert chunk.failures["gone.png"] == Reason.NOT_FOUND
    assert len(chunk.urls) + len(chunk.failures) == 6


@pytest.mark.slow
def test_chunks_without_a_file_succeed_and_are_merged(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path / "photos", 2)
    for index in range(3):
        ended = run_worker(index=index, chunk_count=3, manifest_uri=folder, run_uri=tmp_path / "run")
        assert ended.exit_code == 0, ended.log
    store = open_store(str(tmp_path / "run"))
    merge(store, MergerSettings(run_uri=str(tmp_path / "run"), chunk_count=3))
    assert "Images_Embedded.h5" in object_keys(store)


@pytest.mark.slow
def test_pods_that_see_different_files_end_with_78(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path / "photos", 2)
    run = tmp_path / "run"
    assert run_worker(index=0, chunk_count=2, manifest_uri=folder, run_uri=run).exit_code == 0
    shutil.copyfile(PHOTOS[3], folder / "later.jpg")
    ended = run_worker(index=1, chunk_count=2, manifest_uri=folder, run_uri=run)
    assert ended.exit_code == ExitCode.CONFIG_ERROR, ended.log
    assert "manifest" in ended.log


@pytest.mark.slow
@pytest.mark.parametrize("root", ["gs://bucket", "hf://datasets/owner/name"])
def test_photos_that_only_the_worker_can_read_reach_the_decoders(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = root.removeprefix("gs://").removeprefix("hf://datasets/")
    with cloud_double() as double:
        double.files = {f"{place}/p/{photo.name}": photo.read_bytes() for photo in PHOTOS[:5]}
        double.files[f"{place}/p/empty.jpg"] = b""
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", double.url)
        monkeypatch.setenv("HF_ENDPOINT", double.url)
        ended = run_worker(manifest_uri=f"{root}/p/", run_uri=tmp_path / "run")
    assert ended.exit_code == 0, ended.log
    chunk = read_chunk(tmp_path / "run")
    assert chunk.urls == sorted(f"{root}/p/{photo.name}" for photo in PHOTOS[:5])
    assert chunk.failures == {f"{root}/p/empty.jpg": Reason.NOT_AN_IMAGE}


@pytest.mark.slow
def test_the_photos_below_a_prefix_are_embedded(
    tmp_path: Path, bucket: str, s3_api: S3Client, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    keys = ["p/a b+c.jpg", "p/ü #1?.jpg", "p/sub/%41.jpg"]
    for key in keys:
        s3_api.put_object(Bucket=bucket, Key=key, Body=PHOTOS[0].read_bytes())
    ended = run_worker(manifest_uri=f"s3://{bucket}/p", run_uri=tmp_path / "run")
    assert ended.exit_code == 0, ended.log
    assert read_chunk(tmp_path / "run").urls == [f"s3://{bucket}/{key}" for key in sorted(keys, key=str.encode)]
