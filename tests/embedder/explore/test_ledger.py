from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest

from common.format.failures_csv import COLUMNS, harmless, new_failures_csv
from common.run.keys import FAILURES_KEY
from common.store import open_store
from embedder.explore import ledger
from embedder.explore.ledger import ledger_page

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store
    from embedder.explore.ledger import FailedRow

TEXTS = ["plain", 'a "quoted" text', "two\nlines", "a lone\rreturn", "=HYPERLINK(1)", "", ",,,", "\u202e é \U0001f600"]


def put_ledger(store: Store, path: Path, count: int) -> None:
    with new_failures_csv(path) as write:
        for number in range(count):
            text = TEXTS[number % len(TEXTS)]
            write([str(number // 10), str(number % 10), text, text, ["timeout", "not_found"][number % 2], text])
    store.put_file(FAILURES_KEY, path)


def read_all(store: Store, *, reason: str, count: int) -> list[list[FailedRow]]:
    pages, offset = [], 0
    while True:
        page = ledger_page(store, offset=offset, reason=reason, count=count)
        pages.append(page.rows)
        if page.next_offset is None:
            return pages
        assert page.next_offset > offset
        offset = page.next_offset


@pytest.mark.parametrize("block_bytes", [7, 64, 1 << 20])
@pytest.mark.parametrize("reason", ["", "timeout", "other"])
def test_the_pages_have_every_failed_row_once_in_its_order(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, reason: str
) -> None:
    monkeypatch.setattr(ledger, "BLOCK_BYTES", block_bytes)
    put_ledger(store, tmp_path / "failures.csv", 45)
    rows = [row for page in read_all(store, reason=reason, count=8) for row in page]
    expected = [number for number in range(45) if reason in ("", ["timeout", "not_found"][number % 2])]
    assert [row.chunk * 10 + row.row for row in rows] == expected
    assert [(row.id, row.url, row.detail) for row in rows] == [(TEXTS[number % len(TEXTS)],) * 3 for number in expected]


def test_a_page_looks_through_a_bounded_part_of_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "MAX_SEARCHED_BYTES", 300)
    store = open_store(str(tmp_path / "run"))
    put_ledger(store, tmp_path / "failures.csv", 100)
    pages = read_all(store, reason="other", count=8)
    assert len(pages) > 5
    assert not any(pages)


def test_what_is_no_ledger_has_no_rows(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert ledger_page(store, offset=0, reason="", count=5).rows == []
    for content in (b"", b"\xff\xfe\x00", b'"' * 5000, b"1,2\n" * 100, b"a,b,c,d,e,f\n", b"1,1,,,,\nwithout an end"):
        store.put_bytes(FAILURES_KEY, content)
        page = ledger_page(store, offset=0, reason="", count=5)
        assert len(page.rows) <= 1
        assert page.next_offset is None


def test_the_ledger_is_the_one_that_csv_readers_know() -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([harmless(each) for each in ("0", "1", "=x", "u", "timeout", "")])
    row = ledger._failed_row(buffer.getvalue().encode())
    assert row is not None
    assert len(COLUMNS) == 6
    assert (row.id, row.url) == ("=x", "u")
