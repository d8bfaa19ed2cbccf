"""Fixtures of the end-to-end tests. They need a cluster that can pull both images, and an S3 server for its pods.

The variables in cluster.VARIABLES name them; if one is missing, the tests are skipped. EMBEDDER_E2E_S3_LOCAL_ENDPOINT
is only needed if this machine reaches the S3 server at another URL than the pods.
"""

from __future__ import annotations

import csv
import io
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
import h5py
import pytest

from tests.charts.helm import ROOT
from tests.e2e.cluster import Cluster, CommandError, inputs, missing_inputs
from tests.worker.manifest.tars import tar_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

PHOTOS = sorted(path for path in (ROOT / "examples" / "photos").iterdir() if path.suffix == ".jpg")[:16]
CHUNKS = 4
PER_CHUNK = len(PHOTOS) // CHUNKS
ALL = range(len(PHOTOS))

# Read at import, because each test runs without the variables of the caller.
MISSING = missing_inputs()
INPUTS = inputs()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"needs a cluster; missing: {', '.join(MISSING)}"))


class Bucket(NamedTuple):
    """A prefix of the bucket, with photos, a list of them, and a run."""

    client: S3Client
    name: str
    prefix: str

    def upload_photos(self, numbers: range) -> None:
        for number in numbers:
            self.client.put_object(Bucket=self.name, Key=self._photo(number), Body=PHOTOS[number].read_bytes())

    def upload_list(self) -> list[str]:
        """Upload the list of all photos, and return their URLs.

        All URLs have the same length, so that each quarter of the file (a chunk) lists a quarter of the photos.
        """
        urls = [f"s3://{self.name}/{self._photo(number)}" for number in range(len(PHOTOS))]
        text = io.StringIO()
        csv.writer(text).writerows([["url"], *([url] for url in urls)])
        self.client.put_object(Bucket=self.name, Key=f"{self.prefix}/list.csv", Body=text.getvalue().encode())
        return urls

    def upload_shards(self, count: int) -> list[str]:
        """Upload all photos in tars of the same number of photos each, and return the photos' names in the result."""
        each, names = len(PHOTOS) // count, []
        for shard in range(count):
            photos = PHOTOS[shard * each : (shard + 1) * each]
            body = tar_of([(photo.name, photo.read_bytes()) for photo in photos])
            self.client.put_object(Bucket=self.name, Key=f"{self.prefix}/shards/{shard:05}.tar", Body=body)
            names += [f"s3://{self.name}/{self.prefix}/shards/{shard:05}.tar#{photo.name}" for photo in photos]
        return names

    def run_objects(self) -> set[str]:
        """Return the keys of the run's objects, without the prefix."""
        listed = self.client.list_objects_v2(Bucket=self.name, Prefix=f"{self.prefix}/run/").get("Contents", [])
        return {each["Key"].removeprefix(f"{self.prefix}/run/") for each in listed}

    def result_urls(self) -> list[str]:
        """Return the URLs of the result, and check that it has one vector for each."""
        body = self.client.get_object(Bucket=self.name, Key=f"{self.prefix}/run/Images_Embedded.h5")["Body"].read()
        with h5py.File(io.BytesIO(body)) as file:
            assert file["embeddings"].shape == (len(file["urls"]), 512)
            return [url.decode() for url in file["urls"][:]]

    def _photo(self, number: int) -> str:
        return f"{self.prefix}/photos/{number:02}.jpg"


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=INPUTS.local_endpoint,
        aws_access_key_id=INPUTS.access_key,
        aws_secret_access_key=INPUTS.secret_key,
        region_name="us-east-1",
    )
    found = Bucket(client, INPUTS.bucket, f"e2e-{uuid.uuid4().hex[:8]}")
    yield found
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=found.name, Prefix=f"{found.prefix}/"):
        for each in page.get("Contents", []):
            client.delete_object(Bucket=found.name, Key=each["Key"])


@pytest.fixture
def values(bucket: Bucket) -> dict[str, Any]:
    """The chart's values for a small run without GPUs, with its list and its photos in the bucket."""
    return {
        "manifest": {"uri": f"s3://{bucket.name}/{bucket.prefix}/list.csv"},
        "run": {"uri": f"s3://{bucket.name}/{bucket.prefix}/run"},
        "chunks": {"count": CHUNKS},
        "image": {"worker": image(INPUTS.worker_image), "merge": image(INPUTS.merge_image)},
        "gpu": {"count": 0},
        "s3": {
            "endpointUrl": INPUTS.endpoint,
            "accessKeyId": INPUTS.access_key,
            "secretAccessKey": INPUTS.secret_key,
        },
        "worker": {
            "model": "untrained",
            "dtype": "float32",
            "parallelism": CHUNKS,
            "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "3Gi"}},
        },
    }


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A new namespace that enforces the Pod Security Standard "restricted"; it is deleted after the test."""
    found = Cluster(INPUTS, f"embedder-e2e-{uuid.uuid4().hex[:8]}")
    found.kubectl("create", "namespace", found.namespace)
    found.kubectl("label", "namespace", found.namespace, "pod-security.kubernetes.io/enforce=restricted")
    failed = request.session.testsfailed
    yield found
    if request.session.testsfailed > failed:
        for question in (("get", "jobs,pods", "--output", "wide"), ("get", "events", "--sort-by=.lastTimestamp")):
            try:
                request.node.add_report_section("teardown", "cluster", found.kubectl(*question))
            except CommandError as error:
                request.node.add_report_section("teardown", "cluster", str(error))
    found.kubectl("delete", "namespace", found.namespace, "--wait=false")


def image(reference: str) -> dict[str, str]:
    """Return the chart's values for the image `repository`, `repository:tag` or `repository@digest`."""
    repository, at, digest = reference.partition("@")
    if at:
        return {"repository": repository, "digest": digest}
    repository, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag:
        return {"repository": reference, "tag": "latest"}
    return {"repository": repository, "tag": tag}
