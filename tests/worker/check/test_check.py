"""The worker's check: each fault is a row and the exit code of a worker, and nothing is left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from common.findings import ELSEWHERE_VARIABLE, ImagesFacts, ManifestFacts, ModelFacts, StoreFacts, Subject, Verdict
from common.store import open_store
from tests.image_server import answer, image_server, reset, stall
from tests.merger.runs import make_chunk, put_chunk
from tests.resources.small_disk import small_disk
from tests.worker.check.checking import run_check
from tests.worker.decoders.conftest import run_at_start_of_python
from tests.worker.decoders.faults import FORK_THAT_FAILS
from tests.worker.held_pictures import jpeg, struct_table, write_parquet
from tests.worker.manifest.tars import tar_of
from tests.worker.worker_process import PHOTOS, worker_environment, write_manifest
from worker.decode.geometry import PREPROCESSING_VERSION
from worker.encode.model import find_model
from worker.manifest.manifest import open_manifest
from worker.settings import HttpSettings, ManifestSettings

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

JPEG = next(path for path in PHOTOS if path.name == "coffee.jpg").read_bytes()

OPEN_IMAGES = "ImageID,Subset,OriginalURL,Thumbnail300KURL,Rotation"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_manifest(tmp_path, [str(path) for path in PHOTOS])


def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


# In order


@pytest.mark.slow
def test_a_run_that_can_start_ends_with_0_and_says_what_it_has_found(
    photos: Path, tmp_path: Path, quick_clip: Path
) -> None:
    run = tmp_path / "a" / "run"
    before = files_below(tmp_path)
    checked = run_check(without=[], manifest_uri=photos, run_uri=run, model=quick_clip, device="cpu")
    assert checked.exit_code == 0, checked.log
    assert {finding.verdict for finding in checked.findings.values()} == {Verdict.OK}
    assert set(checked.findings) == {
        *(Subject.SETTINGS, Subject.STORE, Subject.MANIFEST, Subject.RUN, Subject.IMAGES, Subject.MODEL)
    }
    manifest, images, model = (checked[each].facts for each in (Subject.MANIFEST, Subject.IMAGES, Subject.MODEL))
    assert isinstance(manifest, ManifestFacts)
    assert (manifest.format, manifest.rows, manifest.is_exact) == ("txt", len(PHOTOS), True)
    assert [row.url for row in manifest.first_rows] == [str(path) for path in PHOTOS[:3]]
    assert isinstance(images, ImagesFacts)
    assert (images.sampled, images.good) == (20, 20)
    assert images.mean_bytes > 1000
    assert isinstance(model, ModelFacts)
    assert model.device == "cpu"
    assert model.dimensions == 512
    assert model.images_per_second > 1
    assert files_below(tmp_path) == before


def test_a_check_of_a_bucket_leaves_no_object_and_no_upload(photos: Path, bucket: str, s3_api: S3Client) -> None:
    checked = run_check(manifest_uri=photos, run_uri=f"s3://{bucket}/some/run")
    assert checked.exit_code == 0, checked.log
    assert checked[Subject.STORE].verdict is Verdict.OK
    store = checked[Subject.STORE].facts
    assert isinstance(store, StoreFacts)
    assert store.abilities["may delete"] == "yes"
    assert "Contents" not in s3_api.list_objects_v2(Bucket=bucket)
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)


@pytest.mark.slow
def test_random_weights_are_a_warning(photos: Path, tmp_path: Path) -> None:
    checked = run_check(without=["images"], manifest_uri=photos, run_uri=tmp_path / "run", model="untrained")
    assert checked.exit_code == 0
    assert checked[Subject.MODEL].verdict is Verdict.WARNING
    assert "the vectors mean nothing" in checked[Subject.MODEL].message


# Faults, each with the exit code of a worker


def test_a_wrong_setting_is_one_fault_and_everything_else_is_still_tried(photos: Path, tmp_path: Path) -> None:
    checked = run_check(without=[], manifest_uri=photos, run_uri=tmp_path / "run", chunk_count="many", dtype="float8")
    assert (checked.exit_code, checked.faults) == (78, {Subject.SETTINGS: 78})
    assert "EMBEDDER_CHUNK_COUNT is 'many'" in checked[Subject.SETTINGS].message
    assert "EMBEDDER_DTYPE is 'float8'" in checked[Subject.SETTINGS].message
    for subject in (Subject.STORE, Subject.MANIFEST, Subject.IMAGES):
        assert checked[subject].verdict is Verdict.OK
    for subject in (Subject.MODEL, Subject.RUN):
        assert checked[subject].verdict is Verdict.SKIPPED


def test_all_faults_are_found_in_one_go_and_the_worst_decides(tmp_path: Path) -> None:
    with image_server() as server:
        lost = write_manifest(tmp_path, [server.url(f"/{number}.jpg") for number in range(30)])
        (tmp_path / "file").touch()
        checked = run_check(
            without=[], manifest_uri=lost, run_uri=tmp_path / "file" / "run", model=tmp_path / "no-model"
        )
    assert checked.faults == {Subject.STORE: 78, Subject.IMAGES: 65, Subject.MODEL: 78}
    assert checked.exit_code == 78
    assert "cannot be written" in checked[Subject.STORE].message
    assert "there is no such folder" in checked[Subject.MODEL].message
    assert checked.log.splitlines()[-1].split()[1:3] == ["error", "failed"]


def test_a_bucket_that_does_not_exist_is_78(photos: Path, s3_environment: dict[str, str]) -> None:
    assert s3_environment
    checked = run_check(without=["model", "images"], manifest_uri=photos, run_uri="s3://no-such-bucket-here/run")
    assert (checked.exit_code, checked.faults) == (78, {Subject.STORE: 78})


def test_a_store_that_does_not_answer_is_75_within_seconds(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed_port()}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    checked = run_check(without=["model", "images"], manifest_uri=photos, run_uri="s3://bucket/run")
    assert (checked.exit_code, checked.faults) == (75, {Subject.STORE: 75})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist; is EMBEDDER_MANIFEST_URI right"),
        ("", "is empty"),
        ("photo,size\nhttps://example.com/1.jpg,3\n", "name the column with the URLs in EMBEDDER_URL_COLUMN"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_78(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_text(content)
    checked = run_check(manifest_uri=path, run_uri=tmp_path / "run")
    assert (checked.exit_code, checked.faults) == (78, {Subject.MANIFEST: 78})
    assert said in checked[Subject.MANIFEST].message
    assert checked[Subject.IMAGES].verdict is Verdict.SKIPPED
    assert checked[Subject.STORE].verdict is Verdict.OK


def test_a_manifest_whose_server_is_down_is_75(tmp_path: Path) -> None:
    with image_server() as server:
        server.on("/list.csv", answer(status=503))
        checked = run_check(manifest_uri=server.url("/list.csv"), run_uri=tmp_path / "run")
    assert (checked.exit_code, checked.faults) == (75, {Subject.MANIFEST: 75})


def test_sources_that_do_not_answer_are_75(tmp_path: Path) -> None:
    port = closed_port()
    urls = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(3)]
    checked = run_check(
        manifest_uri=write_manifest(tmp_path, urls), run_uri=tmp_path / "run", source_patience_seconds=1
    )
    assert (checked.exit_code, checked.faults) == (75, {Subject.IMAGES: 75})
    assert "connection_failed 3" in checked[Subject.IMAGES].message


def test_shards_are_looked_into_and_more_chunks_than_shards_are_a_warning(tmp_path: Path) -> None:
    (folder := tmp_path / "shards").mkdir()
    for number in range(2):
        pictures = [(f"{path.stem}-{number}{path.suffix}", path.read_bytes()) for path in PHOTOS[:3]]
        (folder / f"{number:05}.tar").write_bytes(tar_of([*pictures, ("a.txt", b"a caption")]))
    checked = run_check(manifest_uri=f"{folder}/", run_uri=tmp_path / "run", chunk_count=5)
    assert checked.exit_code == 0, checked.log
    facts = checked[Subject.MANIFEST].facts
    assert isinstance(facts, ManifestFacts)
    assert (facts.format, facts.rows, facts.is_exact, facts.shards, facts.sources) == ("tar", 6, True, 2, ("bytes",))
    images = checked[Subject.IMAGES].facts
    assert isinstance(images, ImagesFacts)
    assert (images.sampled, images.good) == (6, 6)
    assert checked[Subject.RUN].verdict is Verdict.WARNING
    assert "3 of 5 chunks have no image; set EMBEDDER_CHUNK_COUNT to 2 at most" in checked[Subject.RUN].message


def test_a_folder_of_photos_is_sampled_without_the_results_of_its_run(tmp_path: Path) -> None:
    for photo in PHOTOS[:3]:
        (tmp_path / photo.name).write_bytes(photo.read_bytes())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.png").write_bytes(b"a picture of the report")
    checked = run_check(manifest_uri=tmp_path, run_uri=tmp_path / "out")
    assert checked.exit_code == 0, checked.log
    assert "images, 3 files" in checked[Subject.MANIFEST].message
    images = checked[Subject.IMAGES].facts
    assert isinstance(images, ImagesFacts)
    assert (images.sampled, images.good) == (3, 3)


def test_few_lost_images_are_a_warning_with_their_reasons(tmp_path: Path) -> None:
    with image_server() as server:
        urls = [server.on(f"/{number}.jpg", answer(JPEG)) for number in range(17)]
        urls += [server.on("/broken.jpg", answer(JPEG[:2000])), server.url("/gone.jpg")]
        manifest = write_manifest(tmp_path, [*urls, "not a URL"])
        checked = run_check(manifest_uri=manifest, run_uri=tmp_path / "run")
    assert checked.exit_code == 0
    found = checked[Subject.IMAGES]
    assert found.verdict is Verdict.WARNING
    assert isinstance(found.facts, ImagesFacts)
    assert (found.facts.sampled, found.facts.good) == (20, 17)
    assert found.facts.reasons == {"truncated": 1, "not_found": 2}
    (source,) = found.facts.sources
    assert (source.source, source.asked, source.good) == ("url", 20, 17)


def test_a_site_that_refuses_too_many_requests_is_a_warning_that_speaks_of_its_pace(tmp_path: Path) -> None:
    with image_server() as server:
        urls = [server.on(f"/{number}.jpg", answer(JPEG)) for number in range(12)]
        urls += [server.on(f"/{number}.jpg", answer(status=429)) for number in range(12, 20)]
        checked = run_check(manifest_uri=write_manifest(tmp_path, urls), run_uri=tmp_path / "run")
    found = checked[Subject.IMAGES]
    assert (checked.exit_code, found.verdict) == (0, Verdict.WARNING)
    assert isinstance(found.facts, ImagesFacts)
    assert found.facts.is_held_back
    assert "a site refuses requests beyond a pace of its own" in found.message
    assert "EMBEDDER_FETCH_CONCURRENCY" not in found.message


def test_hosts_that_reset_or_stall_cost_seconds_and_not_the_check(tmp_path: Path) -> None:
    with image_server() as server:
        urls = [server.on(f"/{number}.jpg", answer(JPEG)) for number in range(8)]
        urls += [server.on("/reset.jpg", reset()), server.on("/stall.jpg", stall())]
        manifest = write_manifest(tmp_path, urls)
        checked = run_check(
            manifest_uri=manifest, run_uri=tmp_path / "run", read_timeout_seconds=1, fetch_timeout_seconds=2
        )
    facts = checked[Subject.IMAGES].facts
    assert isinstance(facts, ImagesFacts)
    assert facts.reasons == {"connection_failed": 1, "timeout": 1}
    assert checked.exit_code == 0


def test_each_source_is_asked_for_what_those_before_it_lack(tmp_path: Path) -> None:
    with image_server() as server:
        lines = [OPEN_IMAGES]
        for number in range(6):
            if number < 2:
                server.on(f"/mirror/train/id{number}.jpg", answer(JPEG))
            if number < 4:
                server.on(f"/small/{number}.jpg", answer(JPEG))
            if number < 5:
                server.on(f"/large/{number}.jpg", answer(JPEG))
            lines.append(f"id{number},train,{server.url(f'/large/{number}.jpg')},{server.url(f'/small/{number}.jpg')},")
        manifest = tmp_path / "list.csv"
        manifest.write_text("\n".join(lines) + "\n")
        checked = run_check(manifest_uri=manifest, run_uri=tmp_path / "run", mirror_url=server.url("/mirror"))
        counts = [server.count(f"/{place}") for place in ("small/0.jpg", "small/2.jpg", "large/2.jpg", "large/4.jpg")]
    facts, found = checked[Subject.IMAGES].facts, checked[Subject.MANIFEST].facts
    assert isinstance(facts, ImagesFacts)
    assert [(each.source, each.asked, each.good, each.reasons) for each in facts.sources] == [
        ("mirror", 6, 2, {"not_found": 4}),
        ("thumbnail", 4, 2, {"not_found": 2}),
        ("original", 2, 1, {"not_found": 1}),
    ]
    assert counts == [0, 1, 0, 1]
    assert isinstance(found, ManifestFacts)
    assert found.columns == {
        "url": "OriginalURL",
        "id": "ImageID",
        "subset": "Subset",
        "thumbnail": "Thumbnail300KURL",
        "rotation": "Rotation",
    }


def test_an_image_that_cannot_be_decoded_is_lost_as_for_a_worker_though_another_source_has_it(tmp_path: Path) -> None:
    with image_server() as server:
        server.on("/mirror/train/id.jpg", answer(JPEG[:2000]))
        manifest = tmp_path / "list.csv"
        manifest.write_text(f"{OPEN_IMAGES}\nid,train,{server.on('/1.jpg', answer(JPEG))},,\n")
        checked = run_check(manifest_uri=manifest, run_uri=tmp_path / "run", mirror_url=server.url("/mirror"))
        assert server.count("/1.jpg") == 0
    assert (checked.exit_code, checked.faults) == (65, {Subject.IMAGES: 65})
    assert "truncated 1" in checked[Subject.IMAGES].message


@pytest.mark.slow
def test_a_source_that_is_down_does_not_stop_the_next_one(tmp_path: Path) -> None:
    with image_server() as server:
        row = f"id,train,{server.on('/1.jpg', answer(JPEG))},,"
        manifest = tmp_path / "list.csv"
        manifest.write_text(f"{OPEN_IMAGES}\n{row}\n")
        mirror = f"http://127.0.0.1:{closed_port()}"
        checked = run_check(
            manifest_uri=manifest, run_uri=tmp_path / "run", mirror_url=mirror, source_patience_seconds=1
        )
    assert checked.exit_code == 0
    facts = checked[Subject.IMAGES].facts
    assert isinstance(facts, ImagesFacts)
    assert facts.good == 1


@pytest.mark.slow
def test_a_run_of_other_settings_in_the_store_is_78(photos: Path, tmp_path: Path, quick_clip: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    put_chunk(store, make_chunk(0, 3, chunk_count=1))
    checked = run_check(
        without=["images"], manifest_uri=photos, run_uri=tmp_path / "run", model=quick_clip, device="cpu"
    )
    assert (checked.exit_code, checked.faults) == (78, {Subject.RUN: 78})
    assert "choose another EMBEDDER_RUN_URI" in checked[Subject.RUN].message
    assert [found.key for found in store.list("")] == ["chunks/Images_Embedded_0.h5"]


@pytest.mark.slow
def test_chunks_that_are_in_the_store_are_counted(photos: Path, tmp_path: Path, quick_clip: Path) -> None:
    settings: dict[str, Any] = {
        "manifest_uri": photos,
        "run_uri": tmp_path / "run",
        "model": quick_clip,
        "device": "cpu",
    }
    worker = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=worker_environment(chunk_count=2, **settings),
        capture_output=True,
        check=False,
        cwd="/",
    )
    assert worker.returncode == 0
    checked = run_check(without=["images"], chunk_count=2, **settings)
    assert checked[Subject.RUN].message == "1 of 2 chunks are in the store already, made with these settings"
    assert checked.exit_code == 0


def run_of_another_machine(run: Path, manifest: Path, **other: Any) -> None:  # noqa: ANN401 - any field
    """Put a chunk of a run of the list into the store. `other` are fields of its provenance."""
    opened = open_manifest(ManifestSettings(manifest_uri=str(manifest)), http=HttpSettings())
    made: dict[str, Any] = {"manifest": opened.identity, "preprocessing": PREPROCESSING_VERSION, **other}
    put_chunk(open_store(str(run)), make_chunk(0, 3, chunk_count=4, **made))


def test_without_a_model_the_run_is_compared_as_far_as_it_is_known(photos: Path, tmp_path: Path) -> None:
    run_of_another_machine(tmp_path / "run", photos, model="their/model", weights="theirs")
    checked = run_check(without=["images", "model"], manifest_uri=photos, run_uri=tmp_path / "run", chunk_count=4)
    assert checked[Subject.RUN].message == (
        "1 of 4 chunks are in the store already, made with these settings (not compared: model, model revision, "
        "weights, dtype: the model was not looked at)"
    )
    other = run_check(
        without=["images"],
        manifest_uri=photos,
        run_uri=tmp_path / "run",
        chunk_count=5,
        model="/none",
        dtype="float32",
    )
    assert other.faults == {Subject.MODEL: 78, Subject.RUN: 78}
    assert "was made with chunk_count 4, this run uses chunk_count 5" in other[Subject.RUN].message


def test_a_named_dtype_is_compared_without_the_model(photos: Path, tmp_path: Path) -> None:
    run_of_another_machine(tmp_path / "run", photos, dtype="float16")
    checked = run_check(
        without=["images", "model"], manifest_uri=photos, run_uri=tmp_path / "run", chunk_count=4, dtype="float32"
    )
    assert checked.faults == {Subject.RUN: 78}
    assert "was made with dtype float16, this run uses dtype float32" in checked[Subject.RUN].message


@pytest.mark.slow
def test_a_dtype_that_this_machines_device_decides_is_not_compared_with_a_run_of_other_machines(
    photos: Path, tmp_path: Path, quick_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = find_model(str(quick_clip), revision="").weights
    run_of_another_machine(tmp_path / "run", photos, dtype="float16", weights=weights)
    settings: dict[str, Any] = {
        "without": ["images"],
        "manifest_uri": photos,
        "run_uri": tmp_path / "run",
        "chunk_count": 4,
        "model": quick_clip,
    }
    here = run_check(**settings)
    assert here.faults == {Subject.RUN: 78}
    assert "dtype float16" in here[Subject.RUN].message
    monkeypatch.setenv(ELSEWHERE_VARIABLE, "true")
    elsewhere = run_check(**settings)
    assert elsewhere.exit_code == 0
    assert "not compared: dtype: auto chooses it by the device of the worker" in elsewhere[Subject.RUN].message


def test_the_row_of_the_run_names_what_it_lacks(tmp_path: Path) -> None:
    checked = run_check(manifest_uri=tmp_path / "none.csv", run_uri=tmp_path / "run")
    assert checked[Subject.RUN].message == "these were not read: manifest"


# What helps


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_told_at_once(photos: Path, tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    began = time.monotonic()
    checked = run_check(manifest_uri=photos, run_uri=tmp_path / "run", ca_bundle=bundle)
    assert time.monotonic() - began < 20
    assert checked.faults == {Subject.SETTINGS: 78}
    assert "EMBEDDER_CA_BUNDLE" in checked[Subject.SETTINGS].message
    assert checked[Subject.IMAGES].verdict is Verdict.SKIPPED


def test_decoders_that_cannot_start_are_told_and_not_waited_for(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_at_start_of_python(FORK_THAT_FAILS, tmp_path / "faulty", monkeypatch)
    (folder / "deaths").write_bytes(bytes(1000))
    checked = run_check(manifest_uri=photos, run_uri=tmp_path / "run")
    assert checked.faults == {Subject.IMAGES: 75}
    assert "decoders died before their first image" in checked[Subject.IMAGES].message


def test_a_full_disk_is_a_fault_of_the_store(photos: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        disk.fill(leaving_pages=0)
        checked = run_check(manifest_uri=photos, run_uri=disk.path, prefix=disk.prefix)
    assert checked.faults == {Subject.STORE: 75}
    assert "No space left on device; make room there" in checked[Subject.STORE].message


def test_a_disk_without_room_for_the_run_is_a_warning(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, [f"https://photos.example/{number}.jpg" for number in range(2000)])
    with small_disk(tmp_path / "disk") as disk:
        checked = run_check(without=["model", "images"], manifest_uri=manifest, run_uri=disk.path, prefix=disk.prefix)
    assert checked.exit_code == 0
    assert checked[Subject.RUN].verdict is Verdict.WARNING
    assert "the disk has 2 MB free, and the run needs about 9 MB more: make room" in checked[Subject.RUN].message


def test_an_absent_list_of_ids_is_named_by_its_own_setting(tmp_path: Path) -> None:
    (tmp_path / "urls.json").write_text('["https://photos.example/1.jpg"]')
    checked = run_check(manifest_uri=tmp_path / "urls.json", ids_uri=tmp_path / "none.json", run_uri=tmp_path / "run")
    assert "none.json does not exist; is EMBEDDER_IDS_URI right" in checked[Subject.MANIFEST].message


def test_private_hosts_and_how_to_allow_them_are_named(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:8080/{number}.jpg" for number in range(3)]
    checked = run_check(
        manifest_uri=write_manifest(tmp_path, urls), run_uri=tmp_path / "run", allow_private_hosts=False
    )
    assert checked.faults == {Subject.IMAGES: 65}
    assert "EMBEDDER_ALLOW_PRIVATE_HOSTS" in checked[Subject.IMAGES].message
    assert "worker.allowPrivateHosts" in checked[Subject.IMAGES].message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.txt", b"\xfe\xfd\n" * 40, "the URL is not Unicode text"),
        ("list.json", b'[["a", "b"]]', "the URL is a list, expected text"),
    ],
)
def test_a_list_without_a_usable_row_is_a_fault_of_the_list(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    checked = run_check(manifest_uri=tmp_path / name, run_uri=tmp_path / "run")
    assert (checked.exit_code, checked.faults) == (65, {Subject.MANIFEST: 65})
    assert said in checked[Subject.MANIFEST].message
    assert "EMBEDDER_URL_COLUMN" in checked[Subject.MANIFEST].message


def test_relative_urls_in_a_list_of_the_web_are_a_fault_of_the_list(tmp_path: Path) -> None:
    with image_server() as server:
        server.on("/list.txt", answer(b"a/1.jpg\na/2.jpg\n"))
        checked = run_check(manifest_uri=server.url("/list.txt"), run_uri=tmp_path / "run")
    assert (checked.exit_code, checked.faults) == (65, {Subject.MANIFEST: 65})


def test_some_unusable_rows_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(f'["{PHOTOS[0]}", "{PHOTOS[1]}", 5]')
    checked = run_check(without=["model", "images"], manifest_uri=tmp_path / "list.json", run_uri=tmp_path / "run")
    assert checked[Subject.MANIFEST].verdict is Verdict.WARNING
    assert "1 of 3 sampled rows cannot be used, for example row 2" in checked[Subject.MANIFEST].message
    assert "the URL is a number, expected text" in checked[Subject.MANIFEST].message


def test_a_source_that_is_down_is_told_once(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:{closed_port()}/{number}.jpg" for number in range(3)]
    checked = run_check(
        manifest_uri=write_manifest(tmp_path, urls), run_uri=tmp_path / "run", source_patience_seconds=1
    )
    facts = checked[Subject.IMAGES].facts
    assert isinstance(facts, ImagesFacts)
    assert [source.example for source in facts.sources] == [""]


def test_each_reason_has_an_example(tmp_path: Path) -> None:
    with image_server() as server:
        urls = [server.on("/broken.jpg", answer(JPEG[:2000])), server.url("/gone.jpg"), server.url("/lost.jpg")]
        checked = run_check(manifest_uri=write_manifest(tmp_path, urls), run_uri=tmp_path / "run")
    found = checked[Subject.IMAGES]
    assert isinstance(found.facts, ImagesFacts)
    (source,) = found.facts.sources
    frequent, rare = source.example.split("; ")
    assert frequent.startswith(f"not_found, {server.origin}/gone.jpg: ")
    assert rare.startswith(f"truncated, {server.origin}/broken.jpg: ")
    assert "gone.jpg" not in found.message


# Secrets


def test_no_secret_of_the_list_or_of_the_settings_is_printed(tmp_path: Path) -> None:
    with image_server() as server:
        signed = f"/list.txt?X-Amz-Signature={'a1b2' * 16}"
        user = server.origin.replace("http://", "http://someone:hunter2secret@")
        urls = [f"{user}/1.jpg", f"{server.url('/2.jpg')}?token=hunter3secret"]
        server.on("/list.txt", answer("\n".join(urls).encode() + b"\n"))
        checked = run_check(manifest_uri=f"{user}{signed}", run_uri=tmp_path / "run")
    assert checked.exit_code == 65
    for secret in ("hunter2secret", "hunter3secret", "a1b2a1b2"):
        assert secret not in checked.out + checked.log
    assert "/2.jpg?token=***" in checked.out


def test_images_in_a_parquet_file_are_tried_too(tmp_path: Path) -> None:
    table = struct_table([jpeg(shade) for shade in range(30)], [f"{shade}.jpg" for shade in range(30)])
    good = write_parquet(tmp_path / "good.parquet", table, row_group_size=7)
    checked = run_check(run_uri=tmp_path / "run", manifest_uri=good)
    assert checked.exit_code == 0, checked.log
    assert "18 of 18 sampled images can be fetched and decoded" in checked[Subject.IMAGES].message
    assert "sources bytes, url" in checked[Subject.MANIFEST].message
    bad = write_parquet(tmp_path / "bad.parquet", struct_table([b"no picture", None] * 5, [None] * 10))
    checked = run_check(run_uri=tmp_path / "run", manifest_uri=bad)
    assert checked.faults == {Subject.IMAGES: 65}
    assert "no_source 5, not_an_image 5" in checked[Subject.IMAGES].message
