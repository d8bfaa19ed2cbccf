from __future__ import annotations

import io
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from common.format.failures_csv import COLUMNS, new_failures_csv
from common.run.keys import FAILURES_KEY
from common.store import open_store
from results.report.failure_digest import CHUNKS, NO_SITE, SITES, FailureDigest, digest_failures, digest_ledger, site_of
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


def ledger(path: Path, rows: Iterable[Sequence[str]]) -> FailureDigest:
    with new_failures_csv(path) as write:
        for row in rows:
            write(row)
    with path.open("rb") as file:
        return digest_ledger(file)


def test_the_ledger_of_a_run_is_counted_by_reason_site_and_chunk_with_the_first_examples(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    merge_run(store, (30, 20), failed=7)
    digest = digest_failures(store)
    assert digest.count == 14
    (reason,) = digest.by_reason
    assert (reason.name, reason.count) == ("not_found", 14)
    assert [(each.chunk, each.row) for each in reason.examples] == [(0, 0), (0, 1), (0, 2)]
    assert reason.examples[0].url == "https://photos.example/gone/0/0"
    assert reason.examples[0].detail == "404"
    assert [(each.name, each.count) for each in digest.by_site] == [("photos.example", 14)]
    assert [(each.name, each.count) for each in digest.by_chunk] == [("0", 7), ("1", 7)]


def test_a_run_without_a_ledger_has_an_empty_digest(tmp_path: Path) -> None:
    assert digest_failures(open_store(str(tmp_path))) == FailureDigest()


def test_texts_of_the_ledger_are_those_of_the_list_again(tmp_path: Path) -> None:
    hostile = 'https://a.example/"x,\n\r=1'
    digest = ledger(tmp_path / "ledger.csv", [("3", "5", "=id", hostile, "timeout", "=HYPERLINK(1)")])
    (example,) = digest.by_reason[0].examples
    assert (example.chunk, example.row, example.url, example.detail) == (3, 5, hostile, "=HYPERLINK(1)")


def test_the_largest_sites_are_found_among_more_sites_than_memory_holds(tmp_path: Path) -> None:
    def rows() -> Iterable[Sequence[str]]:
        for number in range(5 * SITES):
            yield "0", str(number), "", f"https://h{number}x.com/", "timeout", ""
            yield "0", str(number), "", "https://busy.com/", "not_found" if number % 2 else "timeout", ""

    digest = ledger(tmp_path / "ledger.csv", rows())
    busy = digest.by_site[0]
    assert busy.name == "busy.com"
    assert 5 * SITES - digest.site_error <= busy.count <= 5 * SITES
    assert 0 < digest.site_error <= digest.count / SITES
    assert len(digest.by_site) <= 2 * SITES
    assert {each.name: each.count for each in digest.by_reason} == {"timeout": 7500, "not_found": 2500}
    assert digest.chunk_error == 0
    assert CHUNKS >= 900


def test_the_site_of_a_row_is_its_registered_domain() -> None:
    assert site_of("https://User:pw@Farm1.StaticFlickr.com:8443/a") == "staticflickr.com"
    assert site_of("https://me.github.io/a") == "me.github.io"
    assert site_of("http://10.1.2.3/a") == "10.1.2.3:80"
    assert site_of("s3://bucket/key") == "s3://bucket"
    for url in ("photos/1.jpg", "http://[broken", "", "https://" + "x" * 300, "http://a.example:99999/", "//"):
        assert site_of(url) == NO_SITE


@given(st.text() | st.from_regex(r"https?://[^/]{0,30}/.*"))
def test_every_text_has_a_site_or_none(text: str) -> None:
    assert len(site_of(text)) < 300


def test_a_file_that_is_no_ledger_has_no_failures() -> None:
    assert digest_ledger(io.BytesIO(b"\x00\xffnot,a,ledger\n")).count == 0
    assert digest_ledger(io.BytesIO(",".join(COLUMNS).encode())).count == 0


def test_a_broken_quote_does_not_take_the_whole_ledger_into_memory(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    header = ",".join(COLUMNS).encode() + b"\n"
    store.put_bytes(FAILURES_KEY, header + b'0,1,,"https://a.example\n' + 3 * (b"x" * 1_000_000 + b"\n"))
    assert digest_failures(store).count == 0
