"""Manifests at gs:// and hf://datasets/, read by the services' own libraries from doubles at their HTTP protocols."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from common.errors import ManifestError, SourceUnavailable, StoreAccessDenied
from tests.certificates import Certificates
from tests.cloud_doubles import COMMIT, CloudDouble, cloud_double
from tests.worker.manifest.manifests import everything, opened, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIST = b"url\nhttps://h/1.jpg\n"


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudDouble]:
    with cloud_double() as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.url)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


@pytest.fixture(params=["gs://bucket", "hf://datasets/owner/name"])
def root(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def place_of(root: str) -> str:
    """Return the start of the names that the double has for the files of `root`."""
    return root.removeprefix("gs://").removeprefix("hf://datasets/")


def put(double: CloudDouble, root: str, **files: bytes) -> None:
    """Put files whose paths have a slash in place of each double underscore."""
    for name, content in files.items():
        double.files[f"{place_of(root)}/{name.replace('__', '/').replace('_dot_', '.')}"] = content


def test_a_file_is_read_in_ranges(double: CloudDouble, root: str) -> None:
    content = b"url\n" + b"https://h/1.jpg\n" * 50_000
    put(double, root, list_dot_csv=content)
    manifest = opened(f"{root}/list.csv")
    assert len(everything(manifest, chunks=7)) == 50_000
    assert (manifest.folder, manifest.name) == (None, f"{root}/list.csv")


@pytest.mark.parametrize("form", ["/lists/", "/lists", "/lists/*.csv", "/**/part-?.csv", "/lists/part-{0,1}.csv"])
def test_several_files_may_be_named_in_many_ways(form: str, double: CloudDouble, root: str) -> None:
    put(double, root, lists__part_dot_csv=LIST)
    double.files = {
        f"{place_of(root)}/{path}": LIST
        for path in ("lists/part-0.csv", "lists/part-1.csv", "lists/_x", "lists/.y.csv")
    } | {f"{place_of(root)}/other/README.md": b"x"}
    manifest = opened(f"{root}{form}")
    assert (manifest.format, manifest.file_count) == ("csv", 2)


def test_many_pages_are_listed_in_order(double: CloudDouble) -> None:
    double.page_size = 3
    double.files = {f"bucket/p/{number:02}.jpg": b"picture" for number in range(20)}
    urls = [row.url for row in rows_of(opened("gs://bucket/p/"))]
    assert urls == [f"gs://bucket/p/{number:02}.jpg" for number in range(20)]


def test_more_files_than_the_bound_are_refused(double: CloudDouble, root: str) -> None:
    double.files = {f"{place_of(root)}/p/{number:02}.jpg": b"picture" for number in range(9)}
    double.page_size = 2
    with pytest.raises(ManifestError, match=r"more than 3 files.*give the folders in it to several runs"):
        opened(f"{root}/p/", max_listed_files=3)
    if root.startswith("gs"):
        assert len(double.requests) <= 3


@pytest.mark.parametrize("place", ["none.csv", "none/", "none/*.csv"])
def test_a_place_without_files_ends_in_a_sentence(place: str, double: CloudDouble, root: str) -> None:
    put(double, root, list_dot_csv=LIST)
    with pytest.raises(ManifestError, match=r"does not exist|nothing was found"):
        opened(f"{root}/{place}")


def test_a_file_that_is_replaced_after_it_was_listed_ends_with_75(double: CloudDouble) -> None:
    double.files["bucket/list.csv"] = LIST * 10_000
    manifest = opened("gs://bucket/list.csv")
    double.files["bucket/list.csv"] = LIST * 10_000 + b"x"
    with pytest.raises(SourceUnavailable, match=r"list\.csv changed while it was read"):
        manifest.read_chunk(0, 1)


def test_the_files_of_a_data_set_are_read_at_one_commit(double: CloudDouble) -> None:
    put(double, "hf://datasets/owner/name", data__train_dot_csv=LIST * 10_000)
    opened("hf://datasets/owner/name@main/data/train.csv").read_chunk(0, 1)
    reads = [path for path, _ in double.requests if "/resolve/" in path]
    assert reads
    assert all(f"/resolve/{COMMIT}/" in path for path in reads)


def test_the_hub_is_sent_the_token_of_the_manifest_or_of_the_hub(
    double: CloudDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(double, "hf://datasets/owner/name", list_dot_csv=LIST)
    double.token = "hf_hunter2"
    with pytest.raises((ManifestError, StoreAccessDenied), match=r"token|credentials"):
        opened("hf://datasets/owner/name/list.csv")
    assert len(rows_of(opened("hf://datasets/owner/name/list.csv", manifest_token="hf_hunter2"))) == 1
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
    assert len(rows_of(opened("hf://datasets/owner/name/list.csv"))) == 1


def test_a_service_that_refuses_is_told_from_one_that_fails(double: CloudDouble) -> None:
    double.status = 403
    with pytest.raises(StoreAccessDenied, match="may not be read"):
        opened("gs://bucket/list.csv")


@pytest.mark.slow
@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_service_with_a_private_authority_is_trusted_only_if_it_is_named(
    root: str, is_trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Certificates(tmp_path)
    program = "import sys; from tests.worker.manifest.manifests import *; print(len(rows_of(opened(sys.argv[1]))))"
    with cloud_double(tls=authority.server()) as double:
        put(double, root, list_dot_csv=LIST)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", double.url)
        monkeypatch.setenv("HF_ENDPOINT", double.url)
        if is_trusted:
            monkeypatch.setenv("EMBEDDER_CA_BUNDLE", str(authority.authority))
        # The hub's client takes its connections once for each process.
        ended = subprocess.run(
            [sys.executable, "-c", program, f"{root}/list.csv"], capture_output=True, text=True, check=False, timeout=50
        )
    assert (ended.stdout.strip() == "1") == is_trusted, ended.stderr
    assert ("CertificateRefused" in ended.stderr) != is_trusted, ended.stderr


@pytest.mark.parametrize("uri", ["hf://owner/name/list.csv", "hf://datasets/", "hf://datasets/owner", "hf://x"])
def test_an_address_that_is_no_data_set_ends_in_a_sentence(uri: str, double: CloudDouble) -> None:
    with pytest.raises(ManifestError, match="write hf://datasets/owner/name/path"):
        opened(uri)
    assert not double.requests
