"""The command itself, with the real query program."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from common.errors import ExitCode, RunUnfinished, SettingsError
from common.store import open_store
from merger.merge import merge
from results.result import open_result
from tests.embedder.command_line import embedder
from tests.merger.runs import make_chunk, put_chunk, put_run, settings_for
from tests.results.runs import merge_run
from tests.worker.held_pictures import jpeg, struct_table, write_parquet
from tests.worker.manifest.tars import tar_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from playwright.sync_api import Browser

    from common.store.contract import Store

START_SECONDS = 60


class Explored:
    """A started `embedder explore`, and questions to its page."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address

    def ask(self, path: str, *, body: bytes | None = None) -> tuple[int, bytes]:
        parts = urlsplit(self.address)
        connection = http.client.HTTPConnection(parts.netloc, timeout=START_SECONDS)
        connection.request("GET" if body is None else "POST", parts.path + path, body)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def json(self, path: str, *, body: bytes | None = None) -> Any:  # noqa: ANN401 - of any question
        status, answer = self.ask(path, body=body)
        assert status == 200, answer
        return json.loads(answer)


@contextmanager
def explored(
    *arguments: object, with_browser: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Explored]:
    """Start the command, wait for its address, and kill it after the block unless it has ended."""
    command = [sys.executable, "-P", "-c", "from embedder.cli import main; main()", "explore"]
    with subprocess.Popen(
        [*command, *([] if with_browser else ["--no-browser"]), *map(str, arguments)],
        env=os.environ | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            written = ""
            while not (found := re.search(r"http://127\.0\.0\.1:\d+/\S+/", written)):
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, written
                written += line
            yield Explored(process, found[0])
        finally:
            process.kill()


def children(process_id: int) -> list[int]:
    listed = Path(f"/proc/{process_id}/task/{process_id}/children").read_text("utf-8")
    return [int(each) for each in listed.split()]


def is_running(process_id: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process_id}/status").read_text("utf-8")
    except OSError:
        return False


def test_a_run_that_is_not_finished_cannot_be_explored(tmp_path: Path) -> None:
    put_run(open_store(str(tmp_path)), (3, 3))
    with pytest.raises(RunUnfinished, match="has no finished result"):
        embedder("explore", tmp_path)


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    merge_run(open_store(str(tmp_path)), (3,))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"--port is {port}: Address already in use; choose another port"):
            embedder("explore", tmp_path, "--port", port)


def test_the_folder_of_pictures_has_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="which is no folder"):
        embedder("explore", tmp_path, "--images", tmp_path / "no")


def test_the_command_line_of_the_browser_does_not_hold_the_secret(tmp_path: Path) -> None:
    merge_run(open_store(str(tmp_path / "run")), (3,))
    browser, opened = tmp_path / "browser.sh", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    screen = {"DISPLAY": ":99", "BROWSER": f"{browser} %s"}
    with explored(tmp_path / "run", with_browser=True, environment=screen) as page:
        end = time.monotonic() + START_SECONDS
        while not opened.exists() and time.monotonic() < end:
            time.sleep(0.02)
        address = opened.read_text().strip()
        parts = urlsplit(address)
        assert parts.netloc == urlsplit(page.address).netloc
        assert urlsplit(page.address).path.strip("/") not in address
        connection = http.client.HTTPConnection(parts.netloc, timeout=START_SECONDS)
        for status, location in ((303, urlsplit(page.address).path), (404, None)):
            connection.request("GET", parts.path)
            response = connection.getresponse()
            response.read()
            assert (response.status, response.getheader("location")) == (status, location)
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_page_and_the_query_program(tmp_path: Path, number: signal.Signals) -> None:
    merge_run(open_store(str(tmp_path)), (30,))
    with explored(tmp_path) as page:
        started = children(page.process.pid)
        assert len(started) == 1
        page.json("api/about")
        began = time.monotonic()
        page.process.send_signal(number)
        code = page.process.wait(20)
        assert time.monotonic() - began < 8
    assert code == (ExitCode.INTERRUPTED if number is signal.SIGINT else ExitCode.STOPPED)
    assert not any(map(is_running, started))


@pytest.mark.slow
def test_a_run_in_a_bucket_is_explored_by_ranges(store: Store, s3_environment: dict[str, str]) -> None:
    merge_run(store, (40, 20), failed=3)
    vectors = open_result(store).vectors(0, 60)
    scores = vectors @ vectors[17]
    with explored(store.uri, environment=s3_environment) as page:
        assert page.json("api/about")["rows"] == 60
        found = page.json("api/search?row=17&start=0&count=5")["rows"]
        assert [each["row"] for each in found] == [row for row in (-scores).argsort() if row != 17][:5]
        assert [each["id"] for each in page.json("api/rows?start=38&count=4")["rows"]] == ["0-38", "0-39", "1-0", "1-1"]
        assert len(page.json("api/failures?offset=0&reason=not_found&count=50")["rows"]) == 6
        # No model made these vectors, so no text can be compared with them.
        status, answer = page.ask("api/search?text=dogs&start=0&count=5")
        assert status >= 400
        assert "search with the version of the embedder that made the run" in json.loads(answer)["message"]


@pytest.mark.slow
def test_the_index_of_a_run_is_used_unless_exact_search_is_asked_for(tmp_path: Path) -> None:
    from tests.results.index.indexed import index  # noqa: PLC0415 - imports hnswlib

    run = open_store(str(tmp_path))
    merge_run(run, (300,))
    index(run)
    for options, name in (((), "index"), (("--exact",), "exact")):
        with explored(tmp_path, *options) as page:
            found = page.json("api/search?row=17&start=0&count=5")["rows"]
            assert page.json("api/about")["search"] == name
            assert len(found) == 5
            assert 17 not in [each["row"] for each in found]


@pytest.mark.slow
def test_photos_are_found_by_text_by_picture_and_by_row_in_a_browser(photo_run: Path, browser: Browser) -> None:
    from playwright.sync_api import expect  # noqa: PLC0415

    result = open_result(open_store(str(photo_run)))
    urls = result.urls(0, result.row_count)
    with explored(photo_run, "--images", photo_run) as page:
        view = browser.new_page()
        view.set_default_timeout(60_000)
        view.goto(page.address)
        expect(view.locator("#grid img")).to_have_count(len(urls), timeout=60_000)
        sizes = view.locator("#grid img").evaluate_all("all => all.map(i => Math.max(i.naturalWidth, i.naturalHeight))")
        assert 100 < min(sizes) <= max(sizes) == 320
        view.fill("#text", "a dog on a beach")
        view.press("#text", "Enter")
        expect(view.locator("#grid .score")).to_have_count(len(urls), timeout=60_000)
        view.set_input_files("#file", urls[2])
        expect(view.locator("#title")).to_have_text("Near your picture", timeout=60_000)
        expect(view.locator("#grid .score").first).to_have_text(re.compile(r"0\.99\d|1\.000"))
        assert view.locator("#grid button").first.get_attribute("data-row") == "2"
        view.close()


@pytest.mark.slow
def test_without_the_folder_a_local_picture_says_what_helps(photo_run: Path) -> None:
    with explored(photo_run) as page:
        status, answer = page.ask("picture?row=0")
    assert status == 422
    assert "start embedder explore with --images FOLDER" in json.loads(answer)["message"]


@pytest.mark.slow
def test_pictures_in_shards_and_parquet_files_are_shown_from_the_folder(tmp_path: Path) -> None:
    urls = ["00000.tar#a.jpg", "s3://bucket/train/00000.tar#a.jpg", "0.parquet#0", "00000.tar#absent.jpg"]
    store = open_store(str(tmp_path / "run"))
    put_chunk(store, replace(make_chunk(0, len(urls), chunk_count=1), urls=urls))
    merge(store, settings_for(store, 1))
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "00000.tar").write_bytes(tar_of([("a.jpg", jpeg(90, side=200))]))
    write_parquet(folder / "0.parquet", struct_table([jpeg(90, side=200)], [None]))
    with explored(tmp_path / "run", "--images", folder) as page:
        for row in range(3):
            status, picture = page.ask(f"picture?row={row}")
            assert (status, picture[:3]) == (200, b"\xff\xd8\xff")
        status, answer = page.ask("picture?row=3")
        assert (status, json.loads(answer)["message"]) == (422, "00000.tar has no picture absent.jpg")
    with explored(tmp_path / "run") as page:
        status, answer = page.ask("picture?row=1")
    assert status == 422
    assert json.loads(answer)["message"] == (
        "the picture lies in the shard 00000.tar, which is not fetched for one picture; --images FOLDER shows it, "
        "where FOLDER holds a local copy of that file"
    )
