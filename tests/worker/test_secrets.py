"""Secrets are planted in everything that a run is given. Nothing that the run says or leaves may hold one."""

from __future__ import annotations

import csv
import io
import socket
import threading
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from common.store import open_store
from tests.image_server import answer, held, image_server, redirect
from tests.manifest_server import manifest_server
from tests.merger.runs import run_merger
from tests.worker.processes import command_line, descendants, environment_of, memory, wait_until
from tests.worker.worker_process import PHOTOS, read_chunk, start_worker, worker_environment, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

JPEG = next(path for path in PHOTOS if path.name == "coffee.jpg").read_bytes()


class Plants:
    """Makes secrets that all differ, and finds them again."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def __call__(self) -> str:
        self.all.append(f"hunter{len(self.all)}secret")
        return self.all[-1]

    def found_in(self, text: str) -> list[str]:
        # No secret is the beginning of another secret.
        return [plant for plant in self.all if plant in text]


@pytest.mark.slow
def test_nothing_but_the_urls_themselves_holds_a_secret_of_the_list_the_settings_or_the_environment(
    tmp_path: Path, quick_clip: Path
) -> None:
    plant = Plants()
    release = threading.Event()
    run = tmp_path / "run"
    with image_server() as server, image_server() as gone, manifest_server() as lists:
        place = server.origin.removeprefix("http://")

        def url(path: str) -> str:
            return f"http://ann:{plant()}@{place}{path}?X-Amz-Signature={plant()}&key={plant()}#token={plant()}"

        server.on("/good.jpg", answer(JPEG))
        server.on("/late.jpg", held(release, then=answer(JPEG)))
        server.on("/page.jpg", answer(b"<html>"))
        server.on("/busy.jpg", answer(status=503))
        server.on("/away.jpg", redirect(f"ftp://ann:{plant()}@{place}/?sig={plant()}"))
        server.on("/loop.jpg", redirect(f"/loop.jpg?token={plant()}"))
        urls = [url(f"/{name}.jpg") for name in ("good", "late", "page", "busy", "away", "loop", "none")]
        urls += [
            f"http://ann:{plant()}@{gone.origin.removeprefix('http://')}/a.jpg?token={plant()}",
            f"http://ann:{plant()}@no-such-host.invalid/a.jpg",
            f"gopher://ann:{plant()}@{place}/",
            f"file:///home/a?token={plant()}",
            f"http://ann:{plant()}@{place}/\x07?sig={plant()}",
            f"ann:{plant()}@{place}:{plant()}",
        ]
        unreadable = [
            f"{url('/more.jpg')},one column,too many",
            f'"{url("/quote.jpg")}',
            f"http://ann:{plant()}@{place}/{'x' * 3000}?sig={plant()},1",
            f"{url('/turned.jpg')},45",
        ]
        gone.stop()
        content = (
            "url,Rotation\n" + "".join(f"{each},\n" for each in urls) + "".join(f"{each}\n" for each in unreadable)
        )
        manifest = lists.publish("list.csv", content.encode()).replace("://", f"://ann:{plant()}@")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = worker_environment(
            run_uri=run,
            manifest_uri=f"{manifest}?access_token={plant()}",
            model=quick_clip,
            max_failure_ratio=1,
            fetch_attempts=2,
            log_level="debug",
            progress_seconds=0.2,
            metrics_port=port,
        ) | {
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": plant(),
            "AWS_SESSION_TOKEN": plant(),
            "HF_TOKEN": plant(),
            "EMBEDDER_MANIFEST_TOKEN": plant(),
            "HTTPS_PROXY": f"http://ann:{plant()}@127.0.0.1:9",
        }
        said = ""
        with start_worker(environment) as process:
            assert process.stderr is not None
            for line in process.stderr:
                said += line
                if "failed=15" in line:
                    break
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as scraped:
                said += scraped.read().decode()
            release.set()
            said += process.communicate(timeout=100)[1]
        assert process.returncode == 0, said
    with run_merger(str(run), 1, environment, keep_chunks="true") as merger:
        said += merger.communicate(timeout=60)[1]
    assert merger.returncode == 0, said
    assert plant.found_in(said) == []

    store = open_store(str(run))
    for found in store.list(""):
        left = store.read(found.key)
        if found.key == "failures.csv":
            rows = list(csv.DictReader(io.StringIO(left.decode())))
            # The ledger keeps the URL of every readable row as it is.
            assert {row["url"].removeprefix("'") for row in rows} >= set(urls[2:])
            left = "\n".join(f"{row['id']} {row['reason']} {row['detail']}" for row in rows).encode()
        for each in (*urls, *(line.rpartition(",")[0] for line in unreadable)):
            left = left.replace(each.encode(), b"")
        assert plant.found_in(left.decode("latin-1")) == [], found.key


@pytest.mark.slow
def test_no_child_process_has_a_key_or_a_token_in_its_memory(
    tmp_path: Path, quick_clip: Path, bucket: str, s3_api: S3Client, s3_environment: dict[str, str]
) -> None:
    s3_api.put_object(Bucket=bucket, Key="signed.jpg", Body=JPEG)
    release = threading.Event()
    with image_server() as server:
        urls = [f"s3://{bucket}/signed.jpg"] * 20 + [server.on("/late.jpg", held(release, then=answer(JPEG)))]
        environment = worker_environment(
            manifest_uri=write_manifest(tmp_path, urls), run_uri=f"s3://{bucket}/run", model=quick_clip
        )
        secrets = {
            "HF_TOKEN": "hf_planted",
            "EMBEDDER_MANIFEST_TOKEN": "bearer_planted",
            "AWS_SECRET_ACCESS_KEY": s3_environment["AWS_SECRET_ACCESS_KEY"],
        }
        with start_worker(environment | s3_environment | secrets) as worker:
            wait_until(lambda: server.count("/late.jpg") > 0)
            for secret in secrets.values():
                assert secret.encode() in environment_of(worker.pid)
            children = descendants(worker.pid)
            assert len(children) > 1
            seen = [memory(child) + environment_of(child) + command_line(child) for child in children]
            release.set()
            log = worker.communicate(timeout=60)[1]
    assert any(b"/late.jpg" in each for each in seen)  # so the search finds what a decoder has
    for name, secret in secrets.items():
        assert not any(secret.encode() in each for each in seen), name
    assert worker.returncode == 0, log
    assert read_chunk(f"s3://{bucket}/run").urls == urls
