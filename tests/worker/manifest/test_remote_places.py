"""What EMBEDDER_MANIFEST_URI may name in a bucket and on HTTP servers."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import ManifestError, SourceUnavailable
from common.store.s3.client import clear_clients
from tests.manifest_server import ManifestServer, manifest_server
from tests.s3_proxy import Answer, Fault, s3_proxy
from tests.worker.manifest.manifests import everything, opened, rows_of, settings_for
from worker.manifest.manifest import open_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mypy_boto3_s3 import S3Client

    from tests.s3_proxy import S3Proxy
    from tests.s3_server import S3Server

fixtures_once = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def put(s3_api: S3Client, bucket: str, keys: Iterable[str], content: bytes = b"picture") -> None:
    for key in keys:
        s3_api.put_object(Bucket=bucket, Key=key, Body=content)


def urls_of(uri: str, **changes: object) -> list[str]:
    return [row.url for row in rows_of(opened(uri, **changes))]


@contextmanager
def listing_changed(s3: S3Server, change: Callable[[bytes], bytes]) -> Iterator[S3Proxy]:
    """Put a proxy before the store that changes the body of every list."""

    def changed(answer: Answer) -> Answer:
        return answer._replace(body=change(answer.body))

    with (
        s3_proxy(s3, lambda each: Fault(change=changed) if each.operation == "ListObjectsV2" else None) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in proxy.environment.items():
            patch.setenv(name, value)
        clear_clients()
        yield proxy
    clear_clients()


@pytest.mark.parametrize("form", ["photos/", "photos", "photos/*", "photos/**", "{photos,photos}/*", "*/a.jpg"])
def test_a_prefix_may_be_written_in_many_ways(form: str, s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, ["photos/a.jpg", "photos/notes.md", "photos/.b.jpg", "photos/_x/c.jpg", "photos-2/a.txt"])
    assert urls_of(f"s3://{bucket}/{form}") == [f"s3://{bucket}/photos/a.jpg"]


def test_pictures_that_their_keys_hide_are_counted(
    s3_api: S3Client, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(s3_api, bucket, ["photos/a.jpg", "photos/.b.jpg", "photos/_x/c.jpg", "photos/_x/d.jpg"])
    opened(f"s3://{bucket}/photos/")
    assert "3 whose names begin with . or _" in capsys.readouterr().out


def test_each_picture_below_a_prefix_is_a_row_in_the_order_of_its_key(s3_api: S3Client, bucket: str) -> None:
    keys = ["p/b.jpg", "p/a/z.JPEG", "p/a-1.webp", "p/漢 字+%41#1?.png", "p/&amp;'\"<>.jpg", "p/a/b/c.heic"]
    put(s3_api, bucket, [*keys, "q/other.jpg"])
    rows = rows_of(opened(f"s3://{bucket}/p/"))
    assert [row.url for row in rows] == [f"s3://{bucket}/{key}" for key in sorted(keys, key=str.encode)]
    assert {row.id for row in rows} >= {"b", "z", "a-1", "c"}
    assert urls_of(f"s3://{bucket}") == [*(row.url for row in rows), f"s3://{bucket}/q/other.jpg"]


def test_a_bucket_is_listed_without_a_request_for_each_file(s3: S3Server, s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, [f"list/part-{number:05}.csv" for number in range(20)], b"url\nhttps://h/1.jpg\n")
    with listing_changed(s3, lambda body: body) as proxy:
        manifest = opened(f"s3://{bucket}/list/")
        operations = [request.operation for request in proxy.requests]
    assert manifest.file_count == 20
    assert operations.count("ListObjectsV2") == 1
    assert len(operations) <= 3


def test_many_named_objects_are_looked_at_and_not_read(s3: S3Server, s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, [f"list/part-{number:05}.csv" for number in range(20)], b"url\nhttps://h/1.jpg\n" * 9_000)
    with listing_changed(s3, lambda body: body) as proxy:
        manifest = opened(f"s3://{bucket}/list/part-{{00000..00019}}.csv")
        operations = [request.operation for request in proxy.requests]
    assert manifest.file_count == 20
    assert operations.count("HeadObject") == 20
    assert operations.count("GetObject") <= 2


def test_a_pattern_and_a_literal_name_are_told_apart(s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, ["l/c[1].csv", "l/c1.csv", "l/d,e.csv"], b"url\nhttps://h/1.jpg\n")
    assert opened(f"s3://{bucket}/l/c[1].csv").file_count == 2
    assert opened(f"s3://{bucket}/l/d,e.csv").file_count == 1
    assert opened(f"s3://{bucket}/l/c1.csv,s3://{bucket}/l/d,e.csv").file_count == 2


@pytest.mark.parametrize("place", ["none/", "none", "none/*.jpg", "list.csv/none.csv"])
def test_a_place_without_objects_ends_in_a_sentence(place: str, s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, ["list.csv"])
    with pytest.raises(ManifestError, match=r"does not exist|nothing was found"):
        opened(f"s3://{bucket}/{place}")


def test_more_keys_than_the_bound_are_refused_with_the_remedy(s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, [f"p/{number}.jpg" for number in range(12)])
    assert len(urls_of(f"s3://{bucket}/p/", max_listed_files=12)) == 12
    with pytest.raises(ManifestError, match=rf"more than 11 files.*embedder list s3://{bucket}/p/ list\.parquet"):
        opened(f"s3://{bucket}/p/", max_listed_files=11)


def test_keys_that_a_store_lists_twice_and_out_of_order_are_rows_once(
    s3: S3Server, s3_api: S3Client, bucket: str
) -> None:
    put(s3_api, bucket, [f"p/{number}.jpg" for number in range(5)])
    expected = urls_of(f"s3://{bucket}/p/")

    def shuffled(body: bytes) -> bytes:
        objects = re.findall(rb"<Contents>.*?</Contents>", body, re.DOTALL)
        rest = re.sub(rb"<Contents>.*</Contents>", b"@", body, flags=re.DOTALL)
        return rest.replace(b"@", b"".join([*reversed(objects), objects[2]]))

    with listing_changed(s3, shuffled):
        assert urls_of(f"s3://{bucket}/p/") == expected


def test_a_key_that_changes_while_it_is_listed_ends_with_75(s3: S3Server, s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, ["p/1.jpg"])

    def twice(body: bytes) -> bytes:
        (listed,) = re.findall(rb"<Contents>.*?</Contents>", body, re.DOTALL)
        return body.replace(listed, listed + re.sub(rb"<Size>\d+</Size>", b"<Size>99</Size>", listed))

    with listing_changed(s3, twice), pytest.raises(SourceUnavailable, match="changed while it was listed"):
        opened(f"s3://{bucket}/p/")


def test_pods_that_see_other_lists_have_other_identities(s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, ["p/1.jpg"])
    first = opened(f"s3://{bucket}/p/").identity
    assert opened(f"s3://{bucket}/p").identity == first
    put(s3_api, bucket, ["p/2.jpg"])
    second = opened(f"s3://{bucket}/p/").identity
    put(s3_api, bucket, ["p/2.jpg"], b"PICTURE")
    assert len({first, second, opened(f"s3://{bucket}/p/").identity}) == 3


def test_a_list_that_changes_between_its_listing_and_its_reading_ends_with_75(s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, ["l/a.csv", "l/b.csv"], b"url\n" + b"https://h/1.jpg\n" * 10_000)
    manifest = opened(f"s3://{bucket}/l/")
    put(s3_api, bucket, ["l/a.csv"], b"url\n" + b"https://h/2.jpg\n" * 10_000)
    with pytest.raises(SourceUnavailable, match=r"a\.csv changed while it was read"):
        manifest.read_chunk(0, 1)
    s3_api.delete_object(Bucket=bucket, Key="l/a.csv")
    with pytest.raises(SourceUnavailable, match=r"a\.csv changed while it was read"):
        manifest.read_chunk(0, 1)


def test_the_results_of_a_run_below_the_prefix_are_no_part_of_it(s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, ["l/a.csv", "l/run/failures.csv", "l/run-2/b.csv"], b"url\nhttps://h/1.jpg\n")
    configured = settings_for(f"s3://{bucket}/l/")
    manifest = open_manifest(configured.manifest, http=configured.http, run_uri=f"s3://{bucket}/l/run")
    assert manifest.file_count == 2


@settings(fixtures_once, max_examples=8)
@given(
    names=st.sets(st.text(st.sampled_from("ab/.-_ +%é漢"), min_size=1, max_size=6), min_size=1, max_size=8),
    count=st.integers(1, 12),
)
def test_the_chunks_of_any_prefix_hold_each_picture_once_and_in_order(
    names: set[str], count: int, s3_api: S3Client, bucket: str
) -> None:
    folder = f"p{abs(hash(frozenset(names)))}"
    # The test's store takes a key with an empty name, or with dots for one, for a path.
    keys = [f"{folder}/x{name}.jpg" for name in names if not re.search(r"//|/\.{0,2}/|/\.{0,2}$", f"{name}/")]
    put(s3_api, bucket, [f"{folder}/x.jpg", *keys])
    expected = sorted(
        (f"s3://{bucket}/{key}" for key in {f"{folder}/x.jpg", *keys} if not re.search(r"/[._]", key)), key=str.encode
    )
    manifest = opened(f"s3://{bucket}/{folder}/")
    assert [row[0] for row in everything(manifest, chunks=1)] == expected
    assert everything(manifest, chunks=count) == everything(manifest, chunks=1)


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


LIST = b"url\nhttps://h/1.jpg\n"


def test_braces_and_commas_name_files_of_http_servers(server: ManifestServer) -> None:
    for number in range(3):
        server.publish(f"part-{number:02}.csv", LIST)
    server.publish("a,b.csv", LIST)
    assert opened(f"{server.url}/part-{{00..02}}.csv").file_count == 3
    assert opened(f"{server.url}/part-{{02,00}}.csv?x={{1,2}}").file_count == 2
    assert opened(f"{server.url}/a,b.csv").file_count == 1
    assert opened(f"{server.url}/a,b.csv, {server.url}/part-00.csv").file_count == 2


def test_the_files_of_several_urls_are_in_the_order_of_their_names(server: ManifestServer) -> None:
    for number in range(3):
        server.publish(f"part-{number}.csv", LIST + b"https://h/more.jpg\n" * number)
    forth = opened(f"{server.url}/part-{{0..2}}.csv")
    back = opened(f"{server.url}/part-{{2..0}}.csv")
    assert forth.identity == back.identity


def test_many_urls_hold_no_connection_each(server: ManifestServer) -> None:
    server.ranges = False
    for number in range(40):
        server.publish(f"part-{number}.csv", LIST * 10_000)
    manifest = opened(f"{server.url}/part-{{0..39}}.csv")
    assert manifest.file_count == 40
    assert len(manifest.read_chunk(0, 1).rows) >= 10_000


def test_pictures_at_urls_are_rows(server: ManifestServer) -> None:
    for name in ("b.jpg", "a.png"):
        server.publish(name, b"picture")
    assert urls_of(f"{server.url}/b.jpg?size=1,{server.url}/a.png") == [
        f"{server.url}/a.png",
        f"{server.url}/b.jpg?size=1",
    ]


def test_pictures_at_urls_that_no_decoder_can_read_are_read_by_the_worker(server: ManifestServer) -> None:
    server.credentials = "Bearer hunter2"
    for name in ("a.jpg", "b.jpg"):
        server.publish(name, name.encode() * 4000)
    manifest = opened(f"{server.url}/{{a,b}}.jpg", manifest_token="hunter2")
    chunk = manifest.read_chunk(0, 1)
    assert manifest.sources == ("bytes",)
    assert chunk.held is not None
    assert [bytes(image) for _, image in chunk.held(1 << 20)] == [b"a.jpg" * 4000, b"b.jpg" * 4000]  # type: ignore[arg-type]


def test_a_folder_of_a_server_ends_in_a_sentence(server: ManifestServer) -> None:
    with pytest.raises(ManifestError, match="a folder of a server, which cannot be listed"):
        opened(server.publish("photos/", b"<html>"))


def test_the_token_goes_to_the_manifests_server_alone(server: ManifestServer) -> None:
    server.credentials = "Bearer hunter2"
    uri = server.publish("list.csv", LIST)
    manifest = opened(uri, manifest_token="hunter2")
    assert len(rows_of(manifest)) == 1
    with manifest_server() as other:
        target = other.publish("list.csv", LIST)
        server.credentials, server.redirect_to = "", target
        assert len(rows_of(opened(uri, manifest_token="hunter2"))) == 1
        assert [headers.get("Authorization") for _, headers in server.requests[-1:]] == ["Bearer hunter2"]
        assert other.requests
        assert not any("Authorization" in headers for _, headers in other.requests)
        with pytest.raises(ManifestError, match=r"names 2 servers.*EMBEDDER_MANIFEST_TOKEN"):
            opened(f"{uri},{target}", manifest_token="hunter2")


def test_a_file_on_two_kinds_of_place_is_one_manifest(server: ManifestServer, s3_api: S3Client, bucket: str) -> None:
    put(s3_api, bucket, ["l/a.csv"], LIST)
    manifest = opened(f"s3://{bucket}/l/,{server.publish('b.csv', LIST)}")
    assert (manifest.file_count, manifest.folder) == (2, None)
    with pytest.raises(ManifestError, match="does not exist"):
        opened(f"s3://{bucket}/l/,{server.url}/none.csv")


def test_open_images_lists_are_known_by_name(server: ManifestServer) -> None:
    content = b"ImageID,Subset,OriginalURL\n0001eeaf4aed83f9,validation,https://h/1.jpg\n"
    server.publish("2018_04/validation/validation-images-with-rotation.csv", content)
    manifest = opened("openimages:validation", openimages_url=server.url)
    assert [row.subset for row in rows_of(manifest)] == ["validation"]
    with pytest.raises(ManifestError, match="openimages:train"):
        opened("openimages:none", openimages_url=server.url)
