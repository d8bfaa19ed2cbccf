"""A whole run over a list whose author wants to do harm."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from common.format.reasons import Reason
from common.run.keys import FAILURES_KEY
from common.store import open_store
from merger.merge import merge
from tests.image_server import answer, image_server
from tests.merger.runs import settings_for
from tests.worker.worker_process import PHOTOS, read_chunk, run_worker

if TYPE_CHECKING:
    from pathlib import Path

JPEG = next(path for path in PHOTOS if path.name == "coffee.jpg").read_bytes()

HOSTILE: dict[bytes, Reason] = {
    json.dumps(url).encode(): reason
    for url, reason in {
        f"http://host.invalid/{'x' * 900_000}": Reason.URL_TOO_LONG,
        "http://host.invalid/\x1b[2J\x1b]0;title\x07": Reason.INVALID_URL,
        "http://host.invalid/\r\nHost: 127.0.0.1": Reason.INVALID_URL,
        "http://host.invalid/\x00.jpg": Reason.MALFORMED_ROW,
        "http://host.invalid/\ud800.jpg": Reason.MALFORMED_ROW,
        "http://host.invalid/\u202egpj.exe": Reason.CONNECTION_FAILED,
        "http://host.invalid/\u2028\u2029": Reason.CONNECTION_FAILED,
        '=HYPERLINK("http://a","b")': Reason.NOT_FOUND,
        "+1+cmd|' /C calc'!A0": Reason.NOT_FOUND,
        "@SUM(1)": Reason.NOT_FOUND,
        "-2+3": Reason.NOT_FOUND,
        "gopher://host.invalid/": Reason.INVALID_URL,
        "http://127.0.0.1:80@[::1/": Reason.INVALID_URL,
        "": Reason.MALFORMED_ROW,
    }.items()
} | {
    b'"http://host.invalid/\xff\xfe.jpg"': Reason.MALFORMED_ROW,
    b"12": Reason.MALFORMED_ROW,
    b"[[[[": Reason.MALFORMED_ROW,
    b'{"url": ["http://host.invalid/"]}': Reason.MALFORMED_ROW,
    b'{"url": ["http://host.invalid/", "http://host.invalid/2"]}': Reason.MALFORMED_ROW,
    b"x" * (1 << 21): Reason.MALFORMED_ROW,
}


@pytest.mark.slow
def test_each_hostile_row_is_in_the_ledger_and_does_no_harm(tmp_path: Path) -> None:
    manifest, run = tmp_path / "list.jsonl", tmp_path / "run"
    with image_server() as server:
        good = server.on("/good.jpg", answer(JPEG))
        manifest.write_bytes(b"\n".join([json.dumps(good).encode(), *HOSTILE, json.dumps(good).encode()]))
        ended = run_worker(run_uri=run, manifest_uri=manifest, max_failure_ratio=1, log_level="debug")
    assert ended.exit_code == 0, ended.log
    assert read_chunk(run).urls == [good, good]
    assert all(line.isprintable() for line in ended.log.splitlines())
    assert max(map(len, ended.log.splitlines())) < 2000

    store = open_store(str(run))
    merge(store, settings_for(store, 1))
    rows = list(csv.DictReader(io.StringIO(store.read(FAILURES_KEY).decode(), newline="")))
    assert [row["reason"] for row in rows] == list(HOSTILE.values())
    assert [int(row["row"]) for row in rows] == list(range(1, len(HOSTILE) + 1))
    for row in rows:
        assert all(cell[:1] not in set("=+-@\t\r\n") or not cell for cell in row.values())
        assert row["detail"].isprintable()
        assert len(row["detail"]) < 1000
