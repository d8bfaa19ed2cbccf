"""The worker as a process: its exit codes, the objects that it leaves in the store, and its log.

The fast tier has one start for each kind of exit code. The model is a small one wherever its size does not matter.
"""

from __future__ import annotations

import csv
import io
import signal
import struct
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from common.exit_policy import UNCOUNTED_FAILURES
from common.format.provenance import program_version
from common.store import open_store
from merger.merge import merge
from merger.settings import MergerSettings
from tests.image_server import answer, chunked, first, held, image_server, partly, redirect, stall
from tests.s3_proxy import INTERNAL_ERROR, s3_proxy
from tests.scrape import free_port, scrape
from tests.worker.worker_process import (
    PHOTOS,
    ROOT,
    object_keys,
    read_chunk,
    run_worker,
    start_worker,
    worker_environment,
    write_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.store.contract import Store
    from tests.image_server import ImageServer
    from tests.s3_proxy import Answer, Request
    from tests.s3_server import S3Server

MANIFEST = ROOT / "examples" / "manifest.csv"
JPEG = next(path for path in PHOTOS if path.name == "astronaut.jpg").read_bytes()


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _quick_model(quick_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a small model the default of every worker that a test starts."""
    monkeypatch.setenv("EMBEDDER_MODEL", str(quick_clip))


@pytest.mark.parametrize("store", ["folder", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_chunk_goes_to_the_store_in_the_manifests_order(store: Store, server: ImageServer, tmp_path: Path) -> None:
    gone = server.url("/gone.jpg")
    urls = []
    for number, photo in enumerate(PHOTOS):
        behaviour = answer(photo.read_bytes())
        # Early rows arrive late.
        urls.append(
            server.on(f"/{photo.name}", first(1, answer(status=503), then=behaviour) if number < 5 else behaviour)
        )
    ended = run_worker(run_uri=store.uri, manifest_uri=write_manifest(tmp_path, [*urls[:3], gone, *urls[3:]]))
    assert ended.exit_code == 0, ended.log
    chunk = read_chunk(store.uri)
    assert chunk.urls == urls
    assert chunk.failures == {gone: "not_found"}
    assert chunk.embeddings.shape == (len(PHOTOS), 512)
    np.testing.assert_allclose(np.linalg.norm(chunk.embeddings, axis=1), 1, atol=1e-5)
    assert object_keys(store) == ["chunks/Images_Embedded_0.h5"]
    assert all(line.values["chunk"] == "0" for line in ended.lines)
    assert ended.events("started")[0].values["rows"] == str(len(PHOTOS) + 1)
    assert ended.events("embedded")[-1].values["images"] == str(len(PHOTOS) + 1)
    assert "bottleneck" in ended.events("spent")[0].values


@pytest.mark.slow
def test_vectors_depend_on_the_image_alone(bucket: str, server: ImageServer, tmp_path: Path) -> None:
    # This model has its real size, because the CPU's kernels are chosen by the sizes of the matrices.
    settings: dict[str, Any] = {"model": "untrained", "batch_size": 16}
    urls = [server.on(f"/{photo.name}", answer(photo.read_bytes())) for photo in PHOTOS]
    runs = {f"s3://{bucket}/run": urls, str(tmp_path / "other"): urls[::-1]}
    for uri, listed in runs.items():
        manifest = write_manifest(tmp_path, listed)
        assert run_worker(run_uri=uri, manifest_uri=manifest, **settings).exit_code == 0
    one, other = (read_chunk(uri) for uri in runs)
    assert one.urls == other.urls[::-1]
    assert one.embeddings.tobytes() == other.embeddings[::-1].tobytes()


@pytest.mark.slow
def test_every_kind_of_failure_is_a_row_of_the_ledger(server: ImageServer, tmp_path: Path) -> None:
    expected = {
        server.url("/nowhere.jpg"): "not_found",
        server.on("/gone.jpg", answer(status=410)): "not_found",
        server.on("/forbidden.jpg", answer(status=403)): "access_denied",
        server.on("/teapot.jpg", answer(status=418)): "http_error",
        server.on("/busy.jpg", answer(status=429)): "deferred",
        server.on("/broken.jpg", answer(status=500)): "server_error",
        server.on("/stalls.jpg", stall()): "timeout",
        server.on("/loop.jpg", redirect("/loop.jpg")): "too_many_redirects",
        server.on("/flickr.jpg", redirect("/images/photo_unavailable.png")): "unavailable_placeholder",
        server.on("/huge.jpg", chunked(b"x" * 300_000)): "too_large",
        server.on("/page.jpg", answer(b"<html>no</html>")): "not_an_image",
        server.on("/empty.jpg", answer(b"")): "not_an_image",
        server.on("/cut.jpg", answer(JPEG[: len(JPEG) // 2])): "truncated",
        server.on("/wide.png", answer(_png_start(60_000, 60_000))): "too_many_pixels",
        server.on("/half.jpg", partly(JPEG[:1000], announced=len(JPEG))): "connection_failed",
        "http://no-such-host.invalid/a.jpg": "connection_failed",
        "http://127.0.0.1:9/a.jpg": "connection_failed",
        "ftp://example.org/a.jpg": "invalid_url",
    }
    good = server.on("/good.jpg", answer(JPEG))
    lines = [*expected, good, f"http://example.org/{'x' * 3000}.jpg", "http://a b.example/c.jpg"]
    ended = run_worker(
        run_uri=tmp_path / "run",
        manifest_uri=write_manifest(tmp_path, lines),
        max_failure_ratio=1,
        fetch_attempts=2,
        read_timeout_seconds=4,
        slow_site_seconds=2,
        max_image_bytes=200_000,
    )
    assert ended.exit_code == 0, ended.log
    chunk = read_chunk(tmp_path / "run")
    assert chunk.urls == [good]
    reasons = dict(chunk.failures)
    assert {url: reasons[url] for url in expected} == expected
    assert len(chunk.failures) + 1 >= len(lines) - 1  # the two malformed URLs are both empty in the ledger
    assert set(reasons.values()) >= {"url_too_long"} | {"invalid_url"}


def _png_start(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))))
    )


@pytest.mark.parametrize("store", ["folder", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_too_many_failures_end_the_chunk_and_upload_nothing(store: Store, server: ImageServer, tmp_path: Path) -> None:
    urls = [server.on("/good.jpg", answer(JPEG)), server.url("/a.jpg"), server.url("/b.jpg")]
    ended = run_worker(run_uri=store.uri, manifest_uri=write_manifest(tmp_path, urls), max_failure_ratio=0.5)
    assert ended.exit_code == 65
    assert "2 of 3 images failed so far" in ended.last_word
    assert "not_found 2" in ended.last_word
    assert f"for example row 1 {server.url('/a.jpg')}: not_found (" in ended.last_word
    assert object_keys(store) == ["chunks/failures_0.csv"]
    assert ended.last_word.endswith(f"; all of them: {store.location('chunks/failures_0.csv')}")
    assert (ended.lines[-1].count("listed"), ended.lines[-1].count("not_found")) == (2, 2)
    (reason,) = ended.events("failures")
    assert (reason.values["reason"], reason.values["images"], reason.values["share"]) == ("not_found", "2", "66.7%")
    assert reason.values["example_2"].startswith(f"row 2 {server.url('/b.jpg')} (")
    assert ended.events("failing_hosts")[0].values["hosts"] == f"{urlsplit(urls[1]).netloc} (2)"
    rows = list(csv.DictReader(io.StringIO(store.read("chunks/failures_0.csv").decode())))
    assert [(row["chunk"], row["row"], row["url"], row["reason"]) for row in rows] == [
        ("0", "1", urls[1], "not_found"),
        ("0", "2", urls[2], "not_found"),
    ]


@pytest.mark.slow
def test_the_list_of_failed_images_is_replaced_by_a_later_attempt_and_removed_by_one_that_succeeds(
    tmp_path: Path,
) -> None:
    store = open_store(str(tmp_path / "run"))
    # A spreadsheet must not run what a list holds.
    settings: dict[str, Any] = {
        "run_uri": store.uri,
        "manifest_uri": write_manifest(tmp_path, [str(PHOTOS[0]), "=1+1.jpg"]),
    }
    for _ in range(2):
        ended = run_worker(**settings)
        assert ended.exit_code == 65
        assert "relative to the folder of the list" in ended.last_word
        assert store.read("chunks/failures_0.csv").decode().splitlines()[1:] == [
            "0,1,,'=1+1.jpg,not_found,url: not_found the file does not exist"
        ]
    assert run_worker(**settings, max_failure_ratio=0.5).exit_code == 0
    assert object_keys(store) == ["chunks/Images_Embedded_0.h5"]

    # An attempt may be killed before it removes the list.
    store.put_bytes("chunks/failures_0.csv", b"left")
    assert run_worker(**settings, max_failure_ratio=0.5).exit_code == 0
    assert object_keys(store) == ["chunks/Images_Embedded_0.h5"]


CAUSES: dict[str, tuple[list[str], dict[str, Any], str, str]] = {
    "private hosts": (
        ["http://10.0.0.1/a.jpg"],
        {"allow_private_hosts": False},
        "forbidden_host",
        "ALLOW_PRIVATE_HOSTS",
    ),
    "long URLs": ([f"https://example.org/{'x' * 3000}"], {}, "url_too_long", "EMBEDDER_MAX_URL_BYTES"),
    "large files": ([str(PHOTOS[0])], {"max_image_bytes": 1024}, "too_large", "EMBEDDER_MAX_IMAGE_BYTES"),
    "large pictures": ([str(PHOTOS[0])], {"max_image_pixels": 100}, "too_many_pixels", "EMBEDDER_MAX_IMAGE_PIXELS"),
    "another scheme": (["ftp://example.org/a.jpg"], {}, "invalid_url", "EMBEDDER_URL_COLUMN"),
    "files that are no pictures": (["manifest.txt"], {}, "not_an_image", "no pictures"),
}


@pytest.mark.slow
@pytest.mark.parametrize("cause", CAUSES)
def test_the_last_word_of_a_failing_chunk_says_what_helps(cause: str, tmp_path: Path) -> None:
    urls, settings, reason, advice = CAUSES[cause]
    ended = run_worker(run_uri=tmp_path / "run", manifest_uri=write_manifest(tmp_path, urls), **settings)
    assert ended.exit_code == 65, ended.log
    assert f"1 of 1 images failed, the limit is 20%: {reason} 1" in ended.last_word
    assert advice in ended.last_word
    assert advice in ended.events("failures")[0].values["advice"]
    assert "chunk" not in ended.last_word.replace("chunks/failures_0.csv", "").replace("the chart", "")


def test_a_list_that_cannot_be_written_hides_no_exit_code(tmp_path: Path) -> None:
    (tmp_path / "run" / "chunks" / "failures_0.csv").mkdir(parents=True)
    ended = run_worker(run_uri=tmp_path / "run", manifest_uri=write_manifest(tmp_path, ["nowhere.jpg"]))
    assert ended.exit_code == 65
    assert "all of them" not in ended.last_word
    assert "not_found 1" in ended.last_word
    assert "failures_0.csv" in ended.events("failures_not_listed")[0].values["file"]


@pytest.mark.slow
def test_a_store_that_goes_down_before_the_list_is_written_hides_no_exit_code(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    def is_down_for_lists(request: Request) -> Answer | None:
        return INTERNAL_ERROR if "failures_0.csv" in request.path else None

    with s3_proxy(s3, is_down_for_lists) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in proxy.environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_MAX_ATTEMPTS", "2")
        ended = run_worker(run_uri=f"s3://{bucket}/run", manifest_uri=write_manifest(tmp_path, ["nowhere.jpg"]))
    assert ended.exit_code == 65, ended.log
    assert ended.events("failures_not_listed")


@pytest.mark.slow
def test_a_network_that_is_gone_is_not_blamed_on_the_images(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:9/{number}.jpg" for number in range(20)]
    manifest = write_manifest(tmp_path, urls)
    ended = run_worker(run_uri=tmp_path / "run", manifest_uri=manifest, fetch_attempts=1, source_patience_seconds=2)
    assert ended.exit_code == 75
    assert "no image source has given a usable answer" in ended.last_word
    assert object_keys(open_store(str(tmp_path / "run"))) == []


@pytest.mark.slow
def test_a_chunk_already_in_the_store_is_not_computed_again(store: Store) -> None:
    settings: dict[str, Any] = {"run_uri": store.uri, "manifest_uri": MANIFEST, "chunk_count": 9}
    assert run_worker(index=3, **settings).exit_code == 0
    before = store.stat("chunks/Images_Embedded_3.h5")
    again = run_worker(index=3, **settings)
    assert again.exit_code == 0
    assert "already" in again.last_word
    assert not again.events("started")
    assert store.stat("chunks/Images_Embedded_3.h5") == before

    other = run_worker(index=3, **settings, dtype="float16")
    assert other.exit_code == 78
    assert "float16" in other.last_word
    assert "bfloat16" in other.last_word or "float32" in other.last_word
    assert store.stat("chunks/Images_Embedded_3.h5") == before

    # Every other chunk of the run needs the same settings, too.
    peer = run_worker(index=4, **settings, rotate=False)
    assert peer.exit_code == 78
    assert "rotation" in peer.last_word
    assert object_keys(store) == ["chunks/Images_Embedded_3.h5"]


@pytest.mark.slow
def test_a_result_stands_for_its_chunks_only_with_the_summary_that_makes_the_run_finished(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"run_uri": tmp_path / "run", "manifest_uri": MANIFEST, "chunk_count": 1}
    assert run_worker(**settings).exit_code == 0
    store = open_store(str(tmp_path / "run"))
    merge(store, MergerSettings(run_uri=store.uri, chunk_count=1))
    assert "chunks/Images_Embedded_0.h5" not in object_keys(store)
    finished = run_worker(**settings)
    assert finished.exit_code == 0
    assert "this run is finished" in finished.last_word
    assert not finished.events("started")

    # A merge that dies before it writes the summary may leave a result that is not verified.
    store.delete(["summary.json"])
    assert run_worker(**settings).exit_code == 0
    assert "chunks/Images_Embedded_0.h5" in object_keys(store)


@pytest.mark.slow
def test_a_damaged_chunk_is_computed_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"run_uri": tmp_path / "run", "manifest_uri": MANIFEST, "chunk_count": 9}
    assert run_worker(index=3, **settings).exit_code == 0
    whole = read_chunk(tmp_path / "run", 3)
    path = tmp_path / "run" / "chunks" / "Images_Embedded_3.h5"
    data = bytearray(path.read_bytes())
    place = data.find(whole.embeddings.tobytes())
    data[place + 5] ^= 1
    path.write_bytes(data)
    again = run_worker(index=3, **settings)
    assert again.exit_code == 0
    assert again.events("damaged_chunk")
    assert read_chunk(tmp_path / "run", 3).embeddings.tobytes() == whole.embeddings.tobytes()


@pytest.mark.slow
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has the device")
def test_a_node_without_its_gpu_does_not_end_the_whole_job(tmp_path: Path) -> None:
    ended = run_worker(run_uri=tmp_path / "run", manifest_uri=MANIFEST, device="cuda")
    assert ended.exit_code == 75
    assert "EMBEDDER_DEVICE" in ended.last_word


@pytest.mark.slow
def test_a_rerun_keeps_the_chunks_numbers(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "run_uri": tmp_path / "run",
        "manifest_uri": MANIFEST,
        "chunk_count": 9,
        "chunk_indexes": "2,5-6",
    }
    ended = run_worker(index=1, **settings)
    assert ended.exit_code == 0
    assert {line.values["chunk"] for line in ended.lines} == {"5"}
    assert object_keys(open_store(str(tmp_path / "run"))) == ["chunks/Images_Embedded_5.h5"]


@pytest.mark.slow
def test_a_chunk_without_rows_is_a_chunk_all_the_same(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, [str(PHOTOS[0])])
    ended = run_worker(index=6, run_uri=tmp_path / "run", manifest_uri=manifest, chunk_count=7)
    empty = run_worker(index=0, run_uri=tmp_path / "run", manifest_uri=manifest, chunk_count=7)
    assert (ended.exit_code, empty.exit_code) == (0, 0)
    shapes = sorted(read_chunk(tmp_path / "run", index).embeddings.shape for index in (0, 6))
    assert shapes == [(0, 512), (1, 512)]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_worker_told_to_stop_leaves_nothing_and_says_how_far_it_was(
    number: signal.Signals, server: ImageServer, tmp_path: Path
) -> None:
    release = threading.Event()
    urls = [server.on("/good.jpg", answer(JPEG)), server.on("/late.jpg", held(release, then=answer(JPEG)))]
    environment = worker_environment(
        run_uri=tmp_path / "run", manifest_uri=write_manifest(tmp_path, urls), progress_seconds=0.2
    )
    with start_worker(environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "images=0 of=2" in line:
                break
        process.send_signal(number)
        _, rest = process.communicate(timeout=10)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "images=0 of=2" in rest
    assert "stopped" in rest.splitlines()[-1]
    assert object_keys(open_store(str(tmp_path / "run"))) == []
    release.set()


def test_a_worker_whose_index_was_stopped_very_often_counts_the_next_stop_as_a_failure(
    server: ImageServer, tmp_path: Path
) -> None:
    release = threading.Event()
    urls = [server.on("/late.jpg", held(release, then=answer(JPEG)))]
    environment = worker_environment(
        run_uri=tmp_path / "run", manifest_uri=write_manifest(tmp_path, urls), progress_seconds=0.2
    )
    with start_worker(environment | {"EMBEDDER_UNCOUNTED_FAILURES": str(UNCOUNTED_FAILURES)}) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "images=0 of=1" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=10)
    release.set()
    assert process.returncode == 75
    assert "stopped by SIGTERM" in rest.splitlines()[-1]
    assert "10 stops of this chunk's pods were not counted, and this one counts as a failure" in rest.splitlines()[-1]


@pytest.mark.slow
def test_metrics_say_how_far_a_worker_is(server: ImageServer, tmp_path: Path) -> None:
    release = threading.Event()
    urls = [server.url("/none.jpg"), *(server.on(f"/{n}.jpg", held(release, then=answer(JPEG))) for n in range(9))]
    port = free_port()
    environment = worker_environment(
        run_uri=tmp_path / "run", manifest_uri=write_manifest(tmp_path, urls), progress_seconds=0.2, metrics_port=port
    )
    with start_worker(environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "failed=1" in line:
                break
        metrics = scrape(port)
        release.set()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert metrics("embedder_worker_info", version=program_version()) == 1
    assert metrics("embedder_images_requested", chunk="0") == 10
    assert metrics("embedder_failures_total", chunk="0", reason="not_found") == 1
    assert metrics("embedder_failure_ratio_limit", chunk="0") == 0.2
    assert metrics("embedder_stage_seconds_total", chunk="0", stage="model", state="waited") > 0


BAD_SETTINGS: dict[str, tuple[dict[str, object], str]] = {
    "an unknown dtype": ({"dtype": "float8"}, "EMBEDDER_DTYPE"),
    "a negative count": ({"chunk_count": -1}, "EMBEDDER_CHUNK_COUNT"),
    "a count that is no number": ({"chunk_count": "many"}, "EMBEDDER_CHUNK_COUNT"),
    "an index outside the count": ({"index": 5, "chunk_count": 5}, "JOB_COMPLETION_INDEX"),
    "an index outside the rerun": ({"index": 2, "chunk_count": 9, "chunk_indexes": "3,7"}, "EMBEDDER_CHUNK_INDEXES"),
    "a rerun outside the count": ({"chunk_count": 5, "chunk_indexes": "3,7"}, "EMBEDDER_CHUNK_INDEXES"),
    "no rerun at all": ({"chunk_indexes": "7-3"}, "EMBEDDER_CHUNK_INDEXES"),
    "no run": ({"run_uri": ""}, "EMBEDDER_RUN_URI"),
    "no manifest": ({"manifest_uri": ""}, "EMBEDDER_MANIFEST_URI"),
    "an unknown source": ({"sources": "mirror,flickr"}, "EMBEDDER_SOURCES"),
    "no bucket": ({"run_uri": "s3://"}, "s3://"),
    "no credentials": ({"run_uri": "s3://bucket/run"}, "AWS_ACCESS_KEY_ID"),
    "a manifest that is not there": ({"manifest_uri": "/nowhere/list.csv"}, "/nowhere/list.csv"),
    "a model that is not there": ({"model": "/nowhere/model"}, "/nowhere/model"),
    "a model that the hub does not have": ({"model": "no-such/model"}, "no-such/model"),
}


@pytest.mark.parametrize(
    "case",
    # One case in the fast tier is enough: tests/common/test_settings.py tests the reading without a process.
    [case if case == "an unknown dtype" else pytest.param(case, marks=pytest.mark.slow) for case in BAD_SETTINGS],
)
def test_bad_settings_end_in_one_clear_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, named = BAD_SETTINGS[case]
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("EMBEDDER_MODEL")
    given: dict[str, Any] = {"run_uri": tmp_path / "run", "manifest_uri": MANIFEST, **settings}
    ended = run_worker(**given)
    assert ended.exit_code == 78, ended.log
    assert named in ended.last_word
    assert "Traceback" not in ended.log
    assert len([line for line in ended.lines if line.level == "error"]) == 1
