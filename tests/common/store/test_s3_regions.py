"""Regions, hosts and addressing of S3, for requests and for the URLs of images. See tests/aws_double.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import pytest

from common.certificates import client_context
from common.errors import SettingsError
from common.store import open_store
from common.store.s3.client import clear_clients, s3_client
from common.store.s3.endpoint import region_in
from common.store.s3.location import S3Location
from common.store.s3.object_range import read_object
from common.store.s3.presigner import Presigner
from tests.aws_double import AwsDouble, aws_double
from tests.certificates import Certificates
from tests.identity_servers import metadata_service
from worker.fetch.object_urls import ObjectUrls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEW = "me-south-1"
"""A region that was opened after March 2019."""

BUCKETS = {"photos": NEW, "paris": "eu-west-3", "virginia": "us-east-1", "dotted.photos": "eu-west-3"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def _no_sdk_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    clear_clients()
    yield
    clear_clients()


@pytest.fixture
def aws(
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    _no_sdk_configuration: None,
) -> Iterator[AwsDouble]:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with aws_double(certificates, BUCKETS) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def signed_url(uri: str) -> str:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return Presigner().sign(S3Location(bucket, key))


def fetched(url: str, aws: AwsDouble) -> bytes:
    proxy = aws.environment["HTTPS_PROXY"]
    opener = build_opener(ProxyHandler({"https": proxy}), HTTPSHandler(context=client_context()))
    with opener.open(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


@pytest.mark.parametrize("region", [NEW, "eu-west-3", "us-east-1", ""])
def test_an_image_is_fetched_from_the_host_of_its_buckets_region_whatever_the_clients_region(
    aws: AwsDouble, monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    for bucket, home in BUCKETS.items():
        uri = aws.put(bucket, "a b.jpg", bucket.encode())
        url = signed_url(uri)
        name, path = (f"{bucket}.", "") if "." not in bucket else ("", f"{bucket}/")
        assert url.partition("?")[0] == f"https://{name}s3.{home}.amazonaws.com/{path}a%20b.jpg"
        assert fetched(url, aws) == bucket.encode()


def test_the_region_of_a_bucket_is_asked_for_once(aws: AwsDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    presigner = Presigner()
    for number in range(5):
        presigner.sign(S3Location("photos", f"{number}.jpg"))
    hosts = [(request.method, request.host, request.path) for request in aws.requests]
    assert hosts == [("HEAD", f"s3.{region}.amazonaws.com", "/photos") for region in ("eu-west-3", NEW)]  # a redirect


def test_a_bucket_that_does_not_exist_costs_its_images_and_no_more(aws: AwsDouble) -> None:
    assert signed_url("s3://nowhere/a.jpg").startswith("https://nowhere.s3.us-east-1.amazonaws.com/a.jpg?")
    assert signed_url("s3://not-.-a.host-/a.jpg").startswith("https://s3.us-east-1.amazonaws.com/not-.-a.host-/a.jpg?")
    assert {request.host for request in aws.requests} == {"s3.us-east-1.amazonaws.com"}


@pytest.mark.parametrize("region", ["eu-west-3", "us-east-1", ""])
def test_a_manifest_and_a_run_in_another_region_are_read_and_written(
    aws: AwsDouble, monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    aws.put("photos", "list.csv", b"url\nhttps://a.example/a.jpg\n")
    assert read_object(S3Location("photos", "list.csv")).data.startswith(b"url")
    store = open_store("s3://photos/run")
    store.put_bytes("a", b"stored")
    assert store.read("a") == b"stored"
    served = [request for request in aws.requests if request.signed_for == NEW]
    assert {request.host for request in served} == {f"photos.s3.{NEW}.amazonaws.com"}


def test_dual_stack_hosts_are_used_where_the_sdk_is_told_so(aws: AwsDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "true")
    uri = aws.put("paris", "a.jpg", b"paris")
    url = signed_url(uri)
    assert urlsplit(url).hostname == "paris.s3.dualstack.eu-west-3.amazonaws.com"
    assert fetched(url, aws) == b"paris"


# Where the region comes from


def region_of_requests() -> str:
    clear_clients()
    signed = signed_url("s3://photos/a.jpg")
    region = str(s3_client().meta.region_name)
    assert f"%2F{region}%2Fs3%2Faws4_request" in signed
    return region


@pytest.mark.usefixtures("_no_sdk_configuration")
def test_the_region_comes_from_the_first_place_that_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr/secret+KEY")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert region_of_requests() == "us-east-1"
    (tmp_path / "config").write_text("[default]\nregion = ap-south-1\n")
    assert region_of_requests() == "ap-south-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert region_of_requests() == "eu-north-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert region_of_requests() == "eu-west-3"


def test_without_any_setting_the_region_is_that_of_the_machine(aws: AwsDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    with metadata_service(region=NEW) as metadata:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which has no way to this machine's metadata
        aws.put("photos", "list.csv", b"url\n")
        assert read_object(S3Location("photos", "list.csv")).data == b"url\n"
    assert {(request.host, request.signed_for) for request in aws.requests} == {(f"photos.s3.{NEW}.amazonaws.com", NEW)}


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://bucket.vpce-0a1b.s3.us-west-2.vpce.amazonaws.com", "us-west-2"),
        ("https://s3.us-west-004.backblazeb2.com/", "us-west-004"),
        ("https://s3.eu-central-1.wasabisys.com:443", "eu-central-1"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://storage.googleapis.com", ""),
        ("http://minio.storage.svc:9000", ""),
        ("http://s3.my-store-1.example", ""),
    ],
)
def test_a_public_stores_endpoint_names_its_region(endpoint: str, region: str) -> None:
    assert region_in(endpoint) == region


# Endpoints and addressing


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("endpoint", "addressing", "url"),
    [
        ("http://minio.storage:9000", "auto", "http://minio.storage:9000/photos/a.jpg"),
        ("http://minio.storage:9000", "path", "http://minio.storage:9000/photos/a.jpg"),
        ("https://store.example", "virtual", "https://photos.store.example/a.jpg"),
        ("", "path", "https://s3.eu-west-3.amazonaws.com/photos/a.jpg"),
    ],
)
def test_images_have_the_endpoints_or_the_configured_addressing(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, addressing: str, url: str
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("EMBEDDER_S3_ADDRESSING", addressing)
    bucket = "photos" if endpoint else "paris"
    assert signed_url(f"s3://{bucket}/a.jpg").partition("?")[0] == url.replace("photos", bucket)


def endpoints() -> list[str]:
    return [url.text for url in ObjectUrls().endpoints()]


@pytest.mark.usefixtures("_no_sdk_configuration")
def test_the_endpoint_comes_from_the_first_place_that_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert endpoints() == []
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://profile.example\n")
    assert endpoints() == ["http://profile.example/"]
    services = "[default]\nservices = here\n[services here]\ns3 =\n  endpoint_url = http://service.example\n"
    (tmp_path / "config").write_text(services)
    assert endpoints() == ["http://service.example/"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://global.example")
    assert endpoints() == ["http://global.example/"]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example")
    assert endpoints() == ["http://s3.example/"]
    assert str(s3_client().meta.endpoint_url) == "http://s3.example"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    clear_clients()
    assert endpoints() == []
    assert str(s3_client().meta.endpoint_url).endswith(".amazonaws.com")


def test_an_endpoint_that_is_no_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "minio:9000")
    with pytest.raises(SettingsError, match="the endpoint of S3"):
        ObjectUrls().endpoints()


def test_an_image_of_another_region_is_signed_in_the_event_loop(aws: AwsDouble) -> None:
    async def run() -> list[str]:
        urls = ObjectUrls()
        return [(await urls.sign(f"s3://{bucket}/a.jpg")).host for bucket in ("photos", "paris", "photos")]

    hosts = asyncio.run(run())
    assert hosts == [f"photos.s3.{NEW}.amazonaws.com", "paris.s3.eu-west-3.amazonaws.com", hosts[0]]
    assert aws.tunnels
