from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from common.format.reasons import REASON_HELP
from common.run.summary import IndexSummary
from results.report import texts
from results.report.contact_sheet import MOST_PICTURES
from results.report.failure_digest import FailureCounter, FailureDigest
from results.report.page import render_report
from results.report.sample_picture import SamplePicture, read_pictures
from tests.results.reports import chunk_times, made_up_failures, made_up_pictures, made_up_summary

if TYPE_CHECKING:
    from common.run.summary import Summary

MOST_BYTES = 5_000_000

HOSTILE = (
    'https://a.example/"><script>alert(1)</script>',
    "javascript:alert(1)",
    "https://a.example/\u202egpj.exe",
    "https://a.example/\x00\x1b[31m\u2028",
    "</style></svg></title><img src=x onerror=alert(1)>",
    "{{ 7*7 }}{% include '/etc/passwd' %}",
)


class Page(HTMLParser):
    """The texts and the tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in {"td", "th"} else ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def report(summary: Summary, failures: FailureDigest | None = None) -> Page:
    return Page(render_report(summary, failures or FailureDigest(), []))


def test_the_totals_are_those_of_the_summary() -> None:
    summary = made_up_summary(chunk_times(24, workers=6), 24, gpu_hour_price=0.71)
    page = report(summary)
    values = page.attributes("value")
    for expected in (summary.rows_embedded, summary.rows_requested, summary.rows_failed, summary.result_bytes, 24):
        assert str(expected) in values
    assert str(summary.cost_per_million) in values
    assert "239,112 of 240,000 images embedded" in page.text
    assert summary.fingerprint in page.text
    for reason, count in summary.failures_by_reason.items():
        assert re.search(rf"{reason}\s*{count:,}\s", page.text)


def test_a_report_of_900_chunks_with_pictures_is_smaller_than_5_mb() -> None:
    summary = made_up_summary(chunk_times(900, workers=60, topped_up=range(0, 900, 2)), 900)
    html = render_report(
        summary, made_up_failures(33_300, chunk_count=900, sites=5000), made_up_pictures(900, side=160)
    )
    assert len(html.encode()) < MOST_BYTES
    page = Page(html)
    assert len([1 for tag, _ in page.tags if tag == "rect"]) > 1300
    pictures = read_pictures(html)
    assert len(pictures) == MOST_PICTURES
    assert pictures[0].chunk == 0
    assert pictures[-1].chunk > 880


@pytest.mark.slow
def test_a_report_of_100000_chunks_is_bounded_and_takes_seconds() -> None:
    summary = made_up_summary(chunk_times(100_000, workers=1000), 100_000)
    failures = made_up_failures(100_000, chunk_count=100_000, sites=10_000)
    begin = time.monotonic()
    html = render_report(summary, failures, made_up_pictures(200))
    assert time.monotonic() - begin < 30
    assert len(html.encode()) < MOST_BYTES
    assert "one row for each 100 chunks" in html


def test_pictures_larger_than_a_report_are_left_out() -> None:
    pictures = [SamplePicture(chunk, "u", b"\xff\xd8\xff" + bytes(60_000)) for chunk in range(900)]
    html = render_report(made_up_summary([], 900), FailureDigest(), pictures)
    assert 20 < len(read_pictures(html)) < MOST_PICTURES
    assert len(html.encode()) < MOST_BYTES


def test_pictures_are_read_back_out_of_a_report_as_often_as_it_is_made() -> None:
    pictures = made_up_pictures(7, each=3)
    summary = made_up_summary([], 7)
    html = render_report(summary, FailureDigest(), pictures)
    assert read_pictures(html) == pictures
    assert render_report(summary, FailureDigest(), read_pictures(html)) == html


def test_what_is_no_sample_picture_is_not_read_back() -> None:
    assert read_pictures('<img class="sample" data-chunk="1" data-url="u" src="data:image/jpeg;base64,AAAA">') == []
    assert read_pictures('<img class="sample" data-chunk="-1" data-url="u" src="data:image/jpeg;base64,/9j/">') == []
    assert read_pictures('<img class="sample" data-chunk="1" src="https://a.example/1.jpg"><img class="sample') == []
    assert read_pictures("\x00<<<img>>") == []


def test_texts_of_the_list_are_escaped_and_what_does_not_show_is_made_visible() -> None:
    counter = FailureCounter()
    for number, url in enumerate(HOSTILE):
        counter.add(("0", str(number), "", url, url, url))
    (picture,) = made_up_pictures(1)
    times = [each.model_copy(update={"device": HOSTILE[0]}) for each in chunk_times(3, workers=1)]
    summary = made_up_summary(times, 3, failures_by_reason=dict.fromkeys(HOSTILE, 1))
    html = render_report(summary, counter.digest(), [picture._replace(url=url) for url in HOSTILE])
    page = Page(html)
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "link"} == set()
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert [each for each in page.attributes("href") if not each.startswith(("#", "https://a.example/"))] == []
    assert all(each.startswith("data:image/jpeg;base64,") for each in page.attributes("src"))
    assert "https://a.example/\\u202egpj.exe" in page.text
    assert "\\u0000\\u001b[31m\\u2028" in page.text
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "{{ 7*7 }}" in page.text


def test_passwords_and_signatures_of_urls_are_not_in_a_report() -> None:
    counter = FailureCounter()
    url = "https://me:secret@a.example/1.jpg?X-Amz-Signature=secret"
    counter.add(("0", "1", "", url, "timeout", f"after {url}"))
    (picture,) = made_up_pictures(1)
    html = render_report(
        made_up_summary([], 1, failures_by_reason={"timeout": 1}), counter.digest(), [picture._replace(url=url)]
    )
    assert "secret" not in html
    assert "a.example/1.jpg" in html


def test_a_page_loads_nothing_from_anywhere() -> None:
    html = render_report(made_up_summary(chunk_times(5, workers=2), 5), FailureDigest(), made_up_pictures(5))
    page = Page(html)
    (policy,) = [each["content"] for tag, each in page.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert "url(" not in html
    assert "@import" not in html


def test_a_summary_without_times_says_so_in_one_sentence() -> None:
    page = report(made_up_summary([], 4))
    assert "The times of the chunks are not known. An earlier version of this program computed them." in page.text
    assert not [tag for tag, _ in page.tags if tag == "svg"]


def test_a_summary_with_some_times_says_how_many_are_not_known() -> None:
    page = report(made_up_summary(chunk_times(5, workers=1)[:3], 5))
    assert "The times of 2 of 5 chunks are not known." in page.text


def test_times_that_nobody_can_read_are_left_out() -> None:
    good, *bad = chunk_times(4, workers=1)
    bad = [
        bad[0].model_copy(update={"started_at": "yesterday"}),
        bad[1].model_copy(update={"ended_at": "2026-11-28T09:00:00"}),
        bad[2].model_copy(update={"started_at": bad[2].ended_at, "ended_at": bad[2].started_at}),
    ]
    page = report(made_up_summary([good, *bad], 4))
    assert len([1 for tag, each in page.tags if tag == "rect" and each.get("height") != "26"]) == 1


def test_missing_chunks_and_the_weakest_chunks_are_named() -> None:
    summary = made_up_summary(chunk_times(900, workers=60), 900, chunks_missing="17,400-402")
    page = report(summary, made_up_failures(33_300, chunk_count=900))
    assert "4 of 900 chunks are missing" in page.text
    assert "17,400-402" in page.text
    slowest = max(summary.chunk_times, key=lambda each: each.seconds)
    assert re.search(rf"The chunks that took the longest.*?Device\s+{slowest.index}\s", page.text, re.DOTALL)
    assert "These are the 10 chunks with the most failures." in page.text


def test_a_reason_of_another_version_is_shown() -> None:
    page = report(made_up_summary([], 1, failures_by_reason={"not_found": 30, "haunted": 7}))
    assert REASON_HELP["not_found"] in page.text  # type: ignore[index]
    assert "a reason of another version" in page.text


def test_an_index_of_an_earlier_result_is_called_so() -> None:
    summary = made_up_summary([], 1)
    index = IndexSummary(
        of_fingerprint=summary.fingerprint,
        of_table_digest=summary.table_digest,
        rows=summary.rows_embedded,
        bytes=1 << 30,
        m=16,
        ef_construction=200,
        recall_at_10=0.987,
        recall_queries=1000,
        ef_search=100,
        seconds=12,
        built_by="0.1.0",
        created_at="2026-11-28T12:00:00+00:00",
    )
    current = report(summary.model_copy(update={"index": index}))
    assert "0.9870" in current.text
    assert "earlier result" not in current.text
    stale = report(summary.model_copy(update={"index": index.model_copy(update={"rows": 1})}))
    assert "The index belongs to an earlier result of this run." in stale.text


def test_an_untrained_model_is_named_as_such() -> None:
    summary = made_up_summary([], 1)
    untrained = summary.provenance.__class__(**{**summary.provenance.__dict__, "model": "untrained"})
    assert "the vectors mean nothing" in report(summary.model_copy(update={"provenance": untrained})).text
    assert "the vectors mean nothing" not in report(summary).text


def test_an_empty_run_has_a_report() -> None:
    summary = made_up_summary(
        [],
        1,
        rows_requested=0,
        rows_embedded=0,
        rows_failed=0,
        failures_by_reason={},
        gpu_hours=1.5,
        gpu_hour_price=2.0,
    )
    page = report(summary)
    assert "0 of 0 images embedded" in page.text
    assert "Every image of the merged chunks is embedded." in page.text


def test_numbers_are_written_for_people() -> None:
    assert texts.number(8966700) == "8,966,700"
    assert [texts.number(each) for each in (0.0, 0.25, 12.34, 0.00001)] == ["0", "0.25", "12.3", "1.0e-05"]
    assert [texts.share(*each) for each in ((1, 3), (0, 5), (5, 5), (99_999, 100_000), (1, 100_000), (1, 0))] == [
        "33.33 %", "0 %", "100 %", "over 99.99 %", "under 0.01 %", "-",
    ]  # fmt: skip
    assert [texts.size(each) for each in (1, 999, 1000, 19_300_000_000)] == ["1 bytes", "999 bytes", "1 kB", "19.3 GB"]
    assert [texts.money(each) for each in (1234.5, 0.6123, 0.00012)] == ["1,234.50", "0.61", "0.00012"]
