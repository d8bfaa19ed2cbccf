"""The report on failed images: what it counts and names, as log lines and as a sentence."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from common.format.chunk_file import Failure
from common.format.reasons import Reason
from common.logs import LogLine, configure_logs, parse_line
from common.process.last_word import TERMINATION_LOG_BYTES
from worker.failure_report import host_of, report_on

if TYPE_CHECKING:
    from worker.failure_report import FailureReport


def failures(**counts: int) -> list[Failure]:
    """Return so many failures for each reason, at a host that has the reason's name."""
    reasons = [Reason(reason) for reason, count in counts.items() for _ in range(count)]
    return [
        Failure(row, f"https://{reason}.example/{row}.jpg", reason, "status 404") for row, reason in enumerate(reasons)
    ]


def lines_of(report: FailureReport) -> list[LogLine]:
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        configure_logs(chunk=7)
        report.log()
    structlog.reset_defaults()
    return [line for text in stream.getvalue().splitlines() if (line := parse_line(text)) is not None]


def test_each_reason_has_a_line_with_its_count_its_share_and_its_first_three_rows() -> None:
    report = report_on(failures(timeout=2, not_found=5), requested=20, max_failure_ratio=0.2)
    total, first, second, hosts = lines_of(report)
    assert total.values == {"chunk": "7", "images": "7", "of": "20", "limit": "20%"}
    assert (first.values["reason"], first.values["images"], first.values["share"]) == ("not_found", "5", "25%")
    assert [value for key, value in first.values.items() if key.startswith("example")] == [
        f"row {row} https://not_found.example/{row}.jpg (status 404)" for row in (2, 3, 4)
    ]
    assert "EMBEDDER_MAX_FAILURE_RATIO" in first.values["advice"]
    assert (second.values["reason"], second.values["images"]) == ("timeout", "2")
    assert "example_3" not in second.values
    assert hosts.values["hosts"] == "not_found.example (5), timeout.example (2)"
    assert {line.level for line in (total, first, second, hosts)} == {"error"}


def test_the_sentence_names_reasons_a_host_an_example_and_the_setting_that_fits() -> None:
    found = [*failures(forbidden_host=3), Failure(8, "", Reason.MALFORMED_ROW, "line 9 of list.csv: no URL")]
    sentence = report_on(found, requested=10, max_failure_ratio=0.125).sentence()
    assert sentence.startswith("4 of 10 images failed so far, the limit is 12.5%: forbidden_host 3, malformed_row 1, ")
    assert "most of them at forbidden_host.example; " in sentence
    assert "for example row 0 https://forbidden_host.example/0.jpg: forbidden_host (status 404); " in sentence
    assert "EMBEDDER_ALLOW_PRIVATE_HOSTS" in sentence


def test_a_chunk_whose_rows_have_all_failed_has_not_failed_so_far() -> None:
    found = [Failure(row, "", Reason.MALFORMED_ROW, f"line {row}: no URL") for row in range(3)]
    report = report_on(found, requested=3, max_failure_ratio=0.2)
    assert report.sentence().startswith("3 of 3 images failed, the limit is 20%: malformed_row 3; for example row 0:")
    assert [line.event for line in lines_of(report)] == ["too_many_failures", "failures"]


def test_only_the_hosts_with_the_most_failures_are_named() -> None:
    found = [Failure(row, f"https://h{row // 2}.example/a", Reason.TIMEOUT, "") for row in range(15)]
    assert report_on(found, requested=15, max_failure_ratio=0).hosts == [(f"h{host}.example", 2) for host in range(5)]


def test_every_reason_at_once_with_long_urls_is_a_sentence_that_a_pod_can_keep() -> None:
    found = [
        Failure(row, f"https://{'h' * 250}.example/{'x' * 9000}", reason, "y" * 9000)
        for row, reason in enumerate(Reason)
    ]
    report = report_on(found, requested=100, max_failure_ratio=0.1)
    assert len(report.sentence().encode()) < TERMINATION_LOG_BYTES // 2
    assert len(lines_of(report)) == len(Reason) + 2


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Example.org:8080/a.jpg", "example.org:8080"),
        ("https://user:secret@example.org/a.jpg", "example.org"),
        ("s3://bucket/photos/a.jpg", "s3://bucket"),
        ("//example.org/a.jpg", "example.org"),
        ("https://[2001:db8::1]/a.jpg", "[2001:db8::1]"),
        ("http://user:se/cret@example.org/a.jpg", ""),
        ("http://[broken/a.jpg", ""),
        ("photos/a.jpg", ""),
        ("file:///photos/a.jpg", ""),
        ("data:image/png;base64,AAAA", ""),
        ("http:\\\\example.org\\a.jpg", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_url_as_lists_write_it(url: str, host: str) -> None:
    assert host_of(url) == host


@given(
    st.text(),
    st.sampled_from(["", "//", "http://", "HTTPS://", "s3://", "http://user:secret@", "http://user:secret@["]),
)
def test_no_url_of_a_list_breaks_the_report_or_shows_a_password(rest: str, start: str) -> None:
    found = [Failure(0, start + rest, Reason.INVALID_URL, rest)]
    report = report_on(found, requested=1, max_failure_ratio=0)
    assert "secret" not in "".join(host for host, _ in report.hosts).replace("secret", "", rest.count("secret"))
    lines = lines_of(report)
    assert lines[0].event == "too_many_failures"
    assert report.sentence().isprintable()
