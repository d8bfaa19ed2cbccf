"""The contract of a store, tested against both stores, and what is special to each."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from common.errors import SettingsError, StoreAccessDenied, StoreUnavailable
from common.store import open_store
from common.store.contract import ObjectExists, Store
from common.store.folder import FolderStore
from common.store.s3.client import clear_clients
from common.store.s3.location import S3Location, parse_s3_uri
from common.store.s3.presigner import Presigner

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client


def test_an_object_is_read_back_whole_and_in_ranges(store: Store) -> None:
    data = os.urandom(300_000)
    stored = store.put_bytes("chunks/a.h5", data)
    assert stored.size == len(data)
    assert store.stat("chunks/a.h5") == stored
    assert store.read("chunks/a.h5") == data
    assert store.read("chunks/a.h5", 1000, 50) == data[1000:1050]
    assert store.read("chunks/a.h5", 299_000) == data[299_000:]
    assert store.read("chunks/a.h5", 0, 0) == b""


def test_an_empty_object_is_read_back(store: Store) -> None:
    stored = store.put_bytes("empty", b"")
    assert stored.size == 0
    assert store.read("empty") == b""
    with store.open("empty", 0) as file:
        assert file.read() == b""


def test_an_absent_object_is_none_and_reading_it_is_an_error(store: Store) -> None:
    assert store.stat("nothing.h5") is None
    with pytest.raises(StoreUnavailable, match=r"nothing\.h5"):
        store.read("nothing.h5")


def test_reading_past_the_end_is_an_error_and_not_a_short_answer(store: Store) -> None:
    store.put_bytes("a", b"12345")
    with pytest.raises(StoreUnavailable):
        store.read("a", 3, 10)


def test_an_object_is_replaced_only_when_asked(store: Store, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"two")
    store.put_file("a", tmp_path / "one", overwrite=False)
    with pytest.raises(ObjectExists):
        store.put_file("a", tmp_path / "two", overwrite=False)
    assert store.read("a") == b"one"
    before = store.stat("a")
    store.put_file("a", tmp_path / "two")
    assert store.read("a") == b"two"
    assert store.stat("a") != before


def test_list_yields_the_keys_below_a_prefix_and_no_unfinished_ones(store: Store) -> None:
    for key in ("chunks/1", "chunks/2", "summary.json"):
        store.put_bytes(key, key.encode())
    assert sorted(found.key for found in store.list("chunks/")) == ["chunks/1", "chunks/2"]
    assert sorted(found.key for found in store.list("")) == ["chunks/1", "chunks/2", "summary.json"]
    assert {found.size for found in store.list("chunks/")} == {8}


def test_delete_removes_objects_and_ignores_absent_ones(store: Store) -> None:
    store.put_bytes("a", b"a")
    store.delete(["a", "never-there"])
    assert store.stat("a") is None


def test_an_opened_object_is_a_seekable_file(store: Store) -> None:
    data = os.urandom(200_000)
    stored = store.put_bytes("a", data)
    with store.open("a", stored.size) as file:
        file.seek(150_000)
        assert file.read(1000) == data[150_000:151_000]
        file.seek(-10, io.SEEK_END)
        assert file.read() == data[-10:]


def test_access_is_checked_without_leaving_anything(store: Store) -> None:
    found = store.check_access()
    assert found.may_delete
    assert found.conditional_writes
    assert list(store.list("")) == []


def kill_while_it_writes(root: Path, key: str) -> None:
    """Leave the unfinished file of a program that is killed while it writes the object."""
    program = """if True:
        import os, pathlib, signal, sys
        from common.store import open_store
        with open_store(sys.argv[1]).temporary(sys.argv[2]) as part:
            part.write_bytes(bytes(1000))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", program, str(root), key], check=False).returncode == -signal.SIGKILL


def names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_the_file_of_a_killed_writer_is_removed_when_its_object_is_written_again(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    for _ in range(3):
        kill_while_it_writes(tmp_path, "chunks/a")
    kill_while_it_writes(tmp_path, "chunks/b")
    assert len(names(tmp_path)) == 1 + 1 + 1, "each killed writer removed the file of the writer before it"
    with store.temporary("chunks/a") as in_use:
        store.put_bytes("chunks/a", b"whole")
        assert in_use.exists()
    assert list(store.list("")) == [store.stat("chunks/a")]
    left = [name for name in names(tmp_path) if name.endswith(".part")]
    assert len(left) == 1
    assert left[0].startswith("chunks/.b.")


def test_files_of_killed_writers_are_cleared_up_and_files_in_use_stay(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path))
    for key in ("access", "chunks/a", "chunks/b", "failures.csv"):
        kill_while_it_writes(tmp_path, key)
    (tmp_path / ".failures.csv.mine.part").write_text("of another program")
    with store.temporary("chunks/a") as in_use:
        kill_while_it_writes(tmp_path, "other/c")
        assert store.clear_up(["chunks/a", "chunks/b", "failures.csv"]) == 3
        assert in_use.exists()
    left = names(tmp_path)
    assert left[:3] == [".failures.csv.mine.part", "chunks", "other"]
    assert len(left) == 4
    assert left[3].startswith("other/.c.")


def test_of_two_writers_of_one_object_in_a_folder_the_first_one_wins(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"one")
    store = FolderStore(str(tmp_path / "run"))
    with store.temporary("a") as part:
        part.write_bytes(b"two")
        store.put_file("a", tmp_path / "one", overwrite=False)
        with pytest.raises(ObjectExists):
            store.put_in_place("a", part, replacing=None)
    assert store.read("a") == b"one"
    assert names(tmp_path / "run") == ["a"]


def test_an_access_probe_that_was_killed_is_cleared_up_in_s3(bucket: str, s3_api: S3Client) -> None:
    store = open_store(f"s3://{bucket}/run")
    for key in ("run/.access/a", "run/.access/b", "run/.access.other", "other/.access/c"):
        s3_api.put_object(Bucket=bucket, Key=key, Body=b"")
    assert store.clear_up(["chunks/a"]) == 2
    left = s3_api.list_objects_v2(Bucket=bucket)["Contents"]
    assert [each["Key"] for each in left] == ["other/.access/c", "run/.access.other"]


def test_a_folder_is_removed_with_its_last_object_and_the_runs_own_folder_stays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    for key in ("chunks/a", "chunks/deep/b", "other/c", "other/d"):
        store.put_bytes(key, b"x")
    store.delete(["chunks/a", "chunks/deep/b", "other/c", "never/there"])
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == ["d", "other"]
    store.delete(["other/d"])
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_store_access_denied(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreAccessDenied, match="EMBEDDER_RUN_URI"):
        open_store(str(tmp_path / "file" / "run")).check_access()


def test_a_missing_bucket_is_named_as_denied(s3_environment: dict[str, str]) -> None:  # noqa: ARG001
    with pytest.raises(StoreAccessDenied, match="no-such-bucket"):
        open_store("s3://no-such-bucket/run").check_access()


def test_missing_credentials_are_denied(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_environment["AWS_ENDPOINT_URL"])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    clear_clients()
    with pytest.raises(StoreAccessDenied, match="AWS_ACCESS_KEY_ID"):
        open_store("s3://bucket/run").check_access()


def test_wrong_credentials_are_denied(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    clear_clients()
    with pytest.raises(StoreAccessDenied):
        open_store(f"s3://{bucket}/run").check_access()


def test_a_server_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ENDPOINT_URL": "http://127.0.0.1:9",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "REGION": "us-east-1",
        "MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    clear_clients()
    with pytest.raises(StoreUnavailable):
        open_store("s3://bucket/run").stat("a")
    clear_clients()


@pytest.mark.parametrize("uri", ["gs://bucket/run", "https://bucket.example.com/run", "S3://bucket/run", "az://a/b"])
def test_a_url_that_is_neither_s3_nor_a_folder_is_a_settings_error(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="is not a place for a run"):
        open_store(uri).check_access()
    assert list(tmp_path.iterdir()) == []


def test_an_s3_uri_without_a_bucket_is_a_settings_error() -> None:
    assert parse_s3_uri("s3://bucket/a/b") == S3Location("bucket", "a/b")
    assert parse_s3_uri("s3://bucket") == S3Location("bucket", "")
    for uri in ("s3://", "s3:///key"):
        with pytest.raises(SettingsError):
            parse_s3_uri(uri)


def test_a_signed_url_is_fetched_by_any_http_client(bucket: str, s3_api: S3Client) -> None:
    for key in ("plain.jpg", "a b/ü+c&d=e.jpg", "~tilde/(x)'.jpg"):
        s3_api.put_object(Bucket=bucket, Key=key, Body=key.encode())
        with urlopen(Presigner().sign(S3Location(bucket, key)), timeout=10) as answer:  # noqa: S310 - loopback
            assert answer.read() == key.encode()
