from __future__ import annotations

import gc
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from common.errors import ManifestError, SettingsError, SourceUnavailable, StoreAccessDenied
from common.store.s3.client import clear_clients
from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.manifest.manifests import QUICK_RETRY, settings_for, written
from worker.manifest.places.byte_source import BLOCK_BYTES, HEAD_BYTES, ByteSource, blocks
from worker.manifest.places.http_source import ATTEMPTS, HttpSource
from worker.manifest.places.local_source import local_path
from worker.manifest.places.open_source import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

CONTENT = os.urandom(300_000)


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


def http_source(uri: str) -> HttpSource:
    settings = settings_for(
        uri,
        user_agent="embedder/{version} (tests)",
        connect_timeout_seconds=5,
        read_timeout_seconds=10,
        retry_after_limit_seconds=0.01,
    )
    return HttpSource(uri, settings.http, retry=QUICK_RETRY)


@pytest.fixture(params=["path", "file", "http", "http_without_ranges", "http_chunked", "s3"])
def source(request: pytest.FixtureRequest, tmp_path: Path, server: ManifestServer) -> ByteSource:
    """CONTENT in each kind of place."""
    if request.param in {"path", "file"}:
        path = written(tmp_path / "a list.csv", CONTENT)
        return open_source(path.as_uri() if request.param == "file" else str(path), settings_for(path).http)
    if request.param == "s3":
        bucket = request.getfixturevalue("bucket")
        request.getfixturevalue("s3_api").put_object(Bucket=bucket, Key="a list.csv", Body=CONTENT)
        return open_source(f"s3://{bucket}/a list.csv", settings_for("x.csv").http)
    server.ranges = request.param == "http"
    server.chunked = request.param == "http_chunked"
    return open_source(server.publish("list.csv", CONTENT), settings_for("x.csv").http)


def test_every_source_reads_any_range(source: ByteSource) -> None:
    assert source.size == len(CONTENT)
    spans = [(0, 10), (HEAD_BYTES - 5, 10), (200_000, 1), (299_990, 10), (100_000, 150_000), (0, 300_000), (7, 0)]
    for start, length in spans:
        assert source.read(start, length) == CONTENT[start : start + length]


def test_every_source_streams_from_anywhere_to_its_end(source: ByteSource) -> None:
    found = list(blocks(source, 1000, 100_000, overlap=500))
    assert b"".join(found) == CONTENT[1000:]
    assert len(found[0]) == 100_000 + 500 - 1000
    assert {len(block) for block in found[1:-1]} == {65_536}


def test_the_identity_is_the_same_until_the_content_changes(tmp_path: Path, server: ManifestServer) -> None:
    def identities() -> list[str]:
        path = str(tmp_path / "list.csv")
        return [open_source(uri, settings_for(path).http).identity for uri in (path, f"{server.url}/list.csv")]

    written(tmp_path / "list.csv", CONTENT)
    server.publish("list.csv", CONTENT)
    first = identities()
    os.utime(tmp_path / "list.csv", (1, 1))
    assert identities() == first
    other = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    written(tmp_path / "list.csv", other)
    server.publish("list.csv", other)
    assert not set(identities()) & set(first)


def test_a_large_file_is_identified_by_its_size_and_samples(tmp_path: Path) -> None:
    content = bytearray(CONTENT * 20)
    path = tmp_path / "list.csv"

    def identity() -> str:
        return open_source(str(written(path, bytes(content))), settings_for(path).http).identity

    first = identity()
    content[-1] ^= 1
    assert identity() != first
    content[-1] ^= 1
    assert identity() == first
    content.append(0)
    assert identity() != first


def test_a_server_without_etags_is_identified_by_date_and_else_by_content(server: ManifestServer) -> None:
    server.etag = False
    uri = server.publish("list.csv", CONTENT)
    by_content = http_source(uri).identity
    assert by_content == http_source(server.publish("copy.csv", CONTENT)).identity
    assert by_content != http_source(server.publish("other.csv", CONTENT[::-1])).identity
    server.last_modified = "Mon, 01 Jan 2024 00:00:00 GMT"
    assert "2024" in http_source(uri).identity


def test_the_first_request_is_a_ranged_get_and_serves_the_head(server: ManifestServer) -> None:
    source = http_source(server.publish("list.csv", CONTENT))
    assert source.read(0, HEAD_BYTES) == CONTENT[:HEAD_BYTES]
    assert source.identity
    ((_, headers),) = server.requests
    assert headers["Range"] == f"bytes=0-{HEAD_BYTES - 1}"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"].startswith("embedder/0.")
    source.read(100_000, 1000)
    assert server.bytes_sent == HEAD_BYTES + 1000


def test_the_answer_of_a_server_that_ignores_ranges_stays_open_and_is_read_on(server: ManifestServer) -> None:
    server.ranges = False
    source = http_source(server.publish("list.csv", CONTENT))
    for start in range(0, 300_000, 50_000):
        assert source.read(start, 1000) == CONTENT[start : start + 1000]
    assert len(server.requests) == 1
    assert source.read(250_000, 10) == CONTENT[250_000:250_010]
    assert len(server.requests) == 2


@pytest.mark.parametrize("ranges_at_first", [False, True])
def test_threads_that_share_the_answer_of_a_server_without_ranges_each_get_their_bytes(
    server: ManifestServer, *, ranges_at_first: bool
) -> None:
    server.ranges = ranges_at_first
    content = os.urandom(12 << 20)
    with closing(http_source(server.publish("list.csv", content))) as source, ThreadPoolExecutor(4) as threads:
        server.ranges = False
        starts = [(place % 3 + 1) * (3 << 20) for place in range(12)]
        found = list(threads.map(lambda start: source.read(start, 3 << 20), starts))
    assert all(content[start : start + (3 << 20)] == block for start, block in zip(starts, found, strict=True))


def test_threads_that_began_before_a_server_stopped_to_send_ranges_share_no_answer(server: ManifestServer) -> None:
    content = os.urandom(4 << 20)
    starts = [(place % 3 + 1) << 20 for place in range(12)]
    for number in range(12):  # chance decides in which rounds the threads meet at the wrong moment
        server.ranges = True
        with (
            closing(http_source(server.publish(f"{number}.csv", content))) as source,
            ThreadPoolExecutor(4) as threads,
        ):
            server.ranges = False
            found = list(threads.map(lambda start, source=source: source.read(start, 1 << 20), starts))
        assert all(content[start : start + (1 << 20)] == block for start, block in zip(starts, found, strict=True))


def test_a_source_that_is_forgotten_leaves_no_connection_open(server: ManifestServer) -> None:
    server.ranges = False
    source = http_source(server.publish("list.csv", os.urandom(12 << 20)))
    circle: list[object] = [source]
    circle.append(circle)
    assert source.read(1 << 20, 10)
    del source, circle
    gc.collect()  # the suite makes an error of a socket that is left to the collector
    deadline = time.monotonic() + 10
    while server.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not server.connections


def test_a_warning_names_a_server_that_ignores_ranges(
    server: ManifestServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ranges = False
    http_source(server.publish("small.csv", CONTENT[:1000]))
    assert "manifest_without_ranges" not in "".join(capsys.readouterr())
    http_source(server.publish("list.csv", CONTENT))
    assert "manifest_without_ranges" in "".join(capsys.readouterr())


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_that_breaks_off_is_continued(server: ManifestServer, *, ranges: bool, chunked: bool) -> None:
    server.ranges, server.chunked = ranges, chunked
    server.breaks = [1000, 0, -1, -1] if not ranges and chunked else [1000, 0, -1, 50_000]
    source = http_source(server.publish("list.csv", CONTENT))
    assert source.read(100_000, 200_000) == CONTENT[100_000:]


def test_an_answer_that_always_breaks_off_makes_the_source_unavailable(server: ManifestServer) -> None:
    source = http_source(server.publish("list.csv", CONTENT))
    server.breaks = [10] * ATTEMPTS
    with pytest.raises(SourceUnavailable, match="broke off"):
        source.read(100_000, 1000)
    assert len(server.requests) == 1 + ATTEMPTS


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_request_is_repeated_after_a_status_that_may_pass(server: ManifestServer, status: int) -> None:
    uri = server.publish("list.csv", CONTENT)
    server.statuses, server.retry_after = [status, status], "3600"
    source = http_source(uri)
    server.statuses, server.retry_after = [0, status], "Thu, 01 Jan 1970 00:00:00 GMT"
    assert source.read(0, 300_000) == CONTENT
    for nonsense in ("soon", "Fri, 01 Jan 99999 00:00:00 GMT", "9" * 5000):
        server.statuses, server.retry_after = [status], nonsense
        assert source.read(0, 300_000) == CONTENT


def test_a_name_that_has_no_address_yet_makes_the_source_unavailable_after_all_attempts() -> None:
    with pytest.raises(SourceUnavailable, match=rf"Failed to resolve.* \({ATTEMPTS} attempts\)"):
        http_source("http://no-such-host.invalid/list.csv")


def test_a_status_that_does_not_pass_makes_the_source_unavailable(server: ManifestServer) -> None:
    server.always = 503
    with pytest.raises(SourceUnavailable, match=r"list\.csv: HTTP 503 \(12 attempts\)"):
        http_source(server.publish("list.csv", CONTENT))
    assert len(server.requests) == ATTEMPTS


def test_a_server_that_is_not_there_makes_the_source_unavailable() -> None:
    with pytest.raises(SourceUnavailable, match="refused"):
        http_source("http://127.0.0.1:9/list.csv")


@pytest.mark.parametrize("status", [404, 410])
def test_a_missing_list_is_a_manifest_error(server: ManifestServer, status: int) -> None:
    server.always = status
    with pytest.raises(ManifestError, match="does not exist"):
        http_source(f"{server.url}/list.csv")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_list_that_may_not_be_read_is_denied(server: ManifestServer, status: int) -> None:
    server.always = status
    with pytest.raises(StoreAccessDenied, match=f"HTTP {status}"):
        http_source(f"{server.url}/list.csv")


def test_any_other_status_is_a_manifest_error(server: ManifestServer) -> None:
    server.always = 400
    with pytest.raises(ManifestError, match="HTTP 400"):
        http_source(f"{server.url}/list.csv")


def test_user_and_password_of_the_url_are_sent_and_not_shown(server: ManifestServer) -> None:
    uri = server.publish("list.csv", CONTENT).replace("//", "//me:s%40cret@")
    server.credentials = "Basic bWU6c0BjcmV0"
    assert http_source(uri).read(100_000, 5) == CONTENT[100_000:100_005]
    server.credentials = "Basic other"
    with pytest.raises(StoreAccessDenied) as denied:
        http_source(uri)
    assert "cret" not in str(denied.value)
    assert "127.0.0.1" in str(denied.value)


@pytest.mark.parametrize("status", [403, 404, 503, 400])
def test_a_presigned_url_is_used_whole_and_shown_without_its_signature(server: ManifestServer, status: int) -> None:
    uri = server.publish("list.csv", CONTENT) + "?X-Amz-Signature=verysecret&X-Amz-Expires=60"
    assert http_source(uri).read(0, 5) == CONTENT[:5]
    assert server.requests[0][0] == "/list.csv?X-Amz-Signature=verysecret&X-Amz-Expires=60"
    server.always = status
    with pytest.raises((ManifestError, StoreAccessDenied, SourceUnavailable)) as failed:
        http_source(uri)
    assert "verysecret" not in str(failed.value)


def test_an_unreachable_presigned_url_is_shown_without_its_signature() -> None:
    with pytest.raises(SourceUnavailable) as failed:
        http_source("http://127.0.0.1:9/list.csv?X-Amz-Signature=verysecret")
    assert "verysecret" not in str(failed.value)


def test_redirects_are_followed_and_endless_ones_are_not(server: ManifestServer) -> None:
    with manifest_server() as other:
        server.redirect_to = other.publish("list.csv", CONTENT)
        assert http_source(f"{server.url}/moved.csv").read(0, 300_000) == CONTENT
    server.redirect_to = f"{server.url}/again.csv"
    with pytest.raises(ManifestError, match="redirects more than 5"):
        http_source(f"{server.url}/moved.csv")
    server.redirect_to = "gopher://127.0.0.1/list.csv"
    with pytest.raises(ManifestError, match="cannot; give an http:// or https:// URL"):
        http_source(f"{server.url}/moved.csv")


def test_a_password_is_not_sent_to_another_host(server: ManifestServer) -> None:
    with manifest_server() as other:
        server.redirect_to = other.publish("list.csv", CONTENT)
        http_source(f"{server.url}/moved.csv".replace("//", "//me:secret@"))
        assert "Authorization" in server.requests[0][1]
        assert "Authorization" not in other.requests[0][1]


def test_content_that_changes_while_it_is_read_makes_the_source_unavailable(
    server: ManifestServer, tmp_path: Path, s3_api: S3Client, bucket: str
) -> None:
    path = written(tmp_path / "list.csv", CONTENT)
    s3_api.put_object(Bucket=bucket, Key="list.csv", Body=CONTENT)
    uris = [str(path), server.publish("list.csv", CONTENT), f"s3://{bucket}/list.csv"]
    sources = [open_source(uri, settings_for(path).http) for uri in uris]
    server.ranges = False
    sources.append(http_source(uris[1]))
    server.ranges = True
    other = CONTENT[::-1] + b"more"
    written(path, other)
    server.publish("list.csv", other)
    s3_api.put_object(Bucket=bucket, Key="list.csv", Body=other)
    sources[-1].read(200_000, 5)  # the open answer still has the old content
    for source in sources:
        with pytest.raises(SourceUnavailable, match="changed while it was read"):
            source.read(100_000, 100_000)


def test_a_server_that_sends_another_range_than_asked_makes_the_source_unavailable(server: ManifestServer) -> None:
    source = http_source(server.publish("list.csv", CONTENT))
    server.shift = 1
    with pytest.raises(SourceUnavailable, match="bytes from 100000 on"):
        source.read(100_000, 10)


def test_a_compressed_transfer_is_refused(server: ManifestServer) -> None:
    server.content_encoding = "gzip"
    with pytest.raises(ManifestError, match="compressed"):
        http_source(server.publish("list.csv", CONTENT))
    server.content_encoding = "aws-chunked"
    assert http_source(f"{server.url}/list.csv").size == len(CONTENT)


@pytest.mark.parametrize("ranges", [True, False])
def test_an_empty_list_has_no_bytes(server: ManifestServer, *, ranges: bool) -> None:
    server.ranges = ranges
    assert http_source(server.publish("list.csv", b"")).size == 0


def test_an_empty_object_has_no_bytes(s3_api: S3Client, bucket: str) -> None:
    s3_api.put_object(Bucket=bucket, Key="list.csv", Body=b"")
    assert open_source(f"s3://{bucket}/list.csv", settings_for("x.csv").http).size == 0


def test_a_proxy_of_the_environment_is_used(server: ManifestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//me:secret@"))
    server.files["http://lists.example/list.csv"] = CONTENT
    assert http_source("http://lists.example/list.csv").read(0, 300_000) == CONTENT
    assert server.requests[0][1]["Proxy-Authorization"].startswith("Basic ")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert http_source(server.publish("list.csv", CONTENT)).size == len(CONTENT)


@pytest.mark.parametrize("uri", ["http://", "http:///list.csv", "http://[::1/list.csv", "http://host:99999/list.csv"])
def test_a_url_without_a_host_is_a_manifest_error(uri: str) -> None:
    with pytest.raises(ManifestError, match="not a URL"):
        http_source(uri)


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("/no/such/list.csv", ManifestError, "does not exist"),
        ("/", ManifestError, "is not a file"),
        ("/dev/null", ManifestError, "is not a file"),
        ("gs://bucket/list.csv", ManifestError, "gs:// is not supported"),
        ("file://elsewhere/list.csv", ManifestError, "elsewhere"),
        ("~nobody-of-that-name/list.csv", ManifestError, "does not know"),
        ("s3://bucket", ManifestError, "names a bucket"),
        ("s3:///list.csv", SettingsError, "names no bucket"),
    ],
)
def test_a_uri_that_names_no_source_is_refused(uri: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(uri, settings_for(uri).http)


def test_a_missing_object_and_a_missing_bucket_are_different_errors(bucket: str) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        open_source(f"s3://{bucket}/list.csv", settings_for("x.csv").http)
    with pytest.raises(StoreAccessDenied, match="NoSuchBucket"):
        open_source("s3://no-such-bucket/list.csv", settings_for("x.csv").http)


def test_a_store_that_is_not_there_makes_the_source_unavailable(
    s3_environment: dict[str, str],  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    clear_clients()
    with pytest.raises(SourceUnavailable):
        open_source("s3://bucket/list.csv", settings_for("x.csv").http)


def test_a_file_that_goes_away_makes_the_source_unavailable(tmp_path: Path) -> None:
    path = written(tmp_path / "list.csv", CONTENT)
    source = open_source(str(path), settings_for(path).http)
    path.unlink()
    with pytest.raises(SourceUnavailable, match=r"list\.csv"):
        source.read(0, 1)


def test_paths_and_file_urls_name_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a b%20ü.csv"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert {local_path(uri) for uri in (str(path), path.name, path.as_uri(), f"~/{path.name}")} == {path}


def test_large_ranges_come_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    with path.open("wb") as file:
        file.truncate(2 * BLOCK_BYTES + 10)
    source = open_source(str(path), settings_for(path).http)
    found = [len(block) for block in blocks(source, 0, source.size, overlap=100)]
    assert found == [BLOCK_BYTES, BLOCK_BYTES, 10]
