"""Pictures in WebDataset shards become the vectors that the same pictures have by their paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from common.errors import SourceUnavailable
from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.images import PHOTOS
from tests.worker.manifest.manifests import opened, written
from tests.worker.manifest.tars import END, header, tar_of
from tests.worker.pipelines import run_pipeline
from tests.worker.worker_process import read_chunk, run_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

SHARDS = 4
PICTURES = PHOTOS[:8]


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


def shards() -> dict[str, bytes]:
    """Return shards by their names. Together they hold the pictures in their order, with texts beside them."""
    each = len(PICTURES) // SHARDS
    found = {}
    for number in range(SHARDS):
        members = []
        for picture in PICTURES[number * each : (number + 1) * each]:
            members += [(picture.name, picture.read_bytes()), (f"{picture.stem}.txt", b"a caption")]
        found[f"{number:05}.tar"] = tar_of(members)
    return found


def colours_of(uri: str | Path, *, allow_private_hosts: bool) -> list[tuple[int, int, int] | None]:
    chunk = opened(uri).read_chunk(0, 1)
    assert not chunk.failures
    return run_pipeline(chunk.rows, allow_private_hosts=allow_private_hosts).colours


def places(
    tmp_path: Path, bucket: str = "", s3_api: S3Client | None = None, server: ManifestServer | None = None
) -> list[str]:
    """Put the shards into every place that is given, and return the manifests that name them there."""
    for name, content in shards().items():
        written(tmp_path / name, content)
        if s3_api is not None:
            s3_api.put_object(Bucket=bucket, Key=f"shards/{name}", Body=content)
        if server is not None:
            server.publish(name, content)
    remote = [f"s3://{bucket}/shards/"] if s3_api else []
    return [f"{tmp_path}/", *remote, *([f"{server.url}/{{00000..00003}}.tar"] if server else [])]


def test_shards_give_the_colours_of_their_pictures(server: ManifestServer, tmp_path: Path) -> None:
    expected = run_pipeline([str(path) for path in PICTURES], folder=Path("/")).colours
    assert None not in expected
    # The server is on loopback, and allowed because the operator named it.
    *_, uri = places(tmp_path, server=server)
    assert colours_of(uri, allow_private_hosts=False) == expected


@pytest.mark.slow
def test_shards_of_a_folder_and_of_a_bucket_give_the_colours_of_their_pictures(
    bucket: str, s3_api: S3Client, tmp_path: Path
) -> None:
    expected = run_pipeline([str(path) for path in PICTURES], folder=Path("/")).colours
    for uri in places(tmp_path, bucket, s3_api):
        assert colours_of(uri, allow_private_hosts=False) == expected


@pytest.mark.slow
def test_shards_behind_a_password_are_read_by_the_worker(
    server: ManifestServer, quick_clip: Path, tmp_path: Path
) -> None:
    places(tmp_path, server=server)
    server.credentials = "Basic YW5uOnMzY3JldA=="
    uri = server.url.replace("://", "://ann:s3cret@") + "/{00000..00003}.tar"
    ended = run_worker(manifest_uri=uri, run_uri=tmp_path / "run", model=quick_clip)
    assert ended.exit_code == 0, ended.log
    assert "s3cret" not in ended.log
    chunk = read_chunk(tmp_path / "run")
    assert chunk.ids == [path.stem for path in PICTURES]
    assert "s3cret" not in "".join(chunk.urls)


def test_members_without_bytes_and_too_large_ones_are_rows_of_the_ledger(tmp_path: Path) -> None:
    good = PICTURES[0].read_bytes()
    members = [("empty.jpg", b""), ("large.jpg", bytes(300_000)), ("text.jpg", b"no picture"), ("good.jpg", good)]
    chunk = opened(written(tmp_path / "a.tar", tar_of(members))).read_chunk(0, 1)
    outcome = run_pipeline(chunk.rows, max_image_bytes=len(good) + 1000)
    assert outcome.reasons == {
        "a.tar#empty.jpg": "not_an_image",
        "a.tar#large.jpg": "too_large",
        "a.tar#text.jpg": "not_an_image",
    }
    assert outcome.failures["a.tar#empty.jpg"] == "not_an_image: bytes: not_an_image it has no bytes"
    assert outcome.colours[3] is not None


def test_a_shard_that_is_replaced_during_the_run_ends_the_chunk(server: ManifestServer) -> None:
    name, content = next(iter(shards().items()))
    rows = opened(server.publish(name, content)).read_chunk(0, 1).rows
    server.publish(name, content[:-1024] + bytes(2048))
    with pytest.raises(SourceUnavailable, match="the file that holds the images changed"):
        run_pipeline(rows)


@pytest.mark.slow
def test_workers_on_shards_make_the_vectors_of_the_pictures_at_one_chunk_and_at_seven(
    quick_clip: Path, tmp_path: Path
) -> None:
    (folder := tmp_path / "shards").mkdir()
    for name, content in shards().items():
        written(folder / name, content)
    damaged = header("link.jpg", kind=b"2", link="/etc/passwd") + header("huge.jpg", 1 << 40) + END
    written(folder / "00004.tar", damaged)
    by_path = written(tmp_path / "list.txt", "".join(f"{path}\n" for path in PICTURES).encode())
    common: dict[str, Any] = {"model": quick_clip, "max_failure_ratio": 1}
    assert run_worker(manifest_uri=by_path, run_uri=tmp_path / "by-path", **common).exit_code == 0
    expected = read_chunk(tmp_path / "by-path").embeddings
    for chunks in (1, 7):
        run = tmp_path / f"run-{chunks}"
        found = []
        for index in range(chunks):
            ended = run_worker(index=index, manifest_uri=f"{folder}/", run_uri=run, chunk_count=chunks, **common)
            assert ended.exit_code == 0, ended.log
            assert bool(ended.events("more_chunks_than_shards")) == (chunks > 5)
            found.append(read_chunk(run, index))
        assert [url for chunk in found for url in chunk.urls] == [
            f"{number // 2:05}.tar#{path.name}" for number, path in enumerate(PICTURES)
        ]
        assert [each for chunk in found for each in chunk.ids or []] == [path.stem for path in PICTURES]
        assert np.array_equal(np.concatenate([chunk.embeddings for chunk in found]), expected)
        failures = {url: reason for chunk in found for url, reason in chunk.failures.items()}
        assert failures == {"00004.tar#link.jpg": "malformed_row", "00004.tar#huge.jpg": "malformed_row"}
