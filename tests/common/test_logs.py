from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.logs import LogLine, configure_logs, log, parse_line, printable, redact_url, redact_urls

PROGRAM = """
import sys, warnings, logging
from common.logs import bind_logs, configure_logs, log
configure_logs("info", chunk=7)
log.info("embedded", images=5120, rate_per_s=81.23456, detail='a "quoted" text\\nof two lines', url=sys.argv[1])
log.debug("hidden")
warnings.warn("odd")
logging.getLogger("some.library").warning("careful with %s", sys.argv[1])
"""


def log_of(argument: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout == ""
    return ended.stderr.splitlines()


def test_an_event_is_one_line_that_can_be_read_back() -> None:
    lines = [parse_line(line) for line in log_of("plain")]
    assert all(line is not None and line.values["chunk"] == "7" for line in lines)
    first = lines[0]
    assert first is not None
    assert (first.level, first.event) == ("info", "embedded")
    assert first.values["images"] == "5120"
    assert first.values["rate_per_s"] == "81.23"
    assert first.values["detail"] == 'a "quoted" text\\nof two lines'
    assert [line.event for line in lines[1:] if line] == ["library", "library"]


def test_values_are_read_back_as_counts_and_numbers() -> None:
    line = parse_line(
        "2026-11-23T15:20:25.123Z info embedded images=5120 rate_per_s=81.23 slow=1.5e-05 waiting_on=fetch"
    )
    assert line is not None
    assert line.count("images") == 5120
    assert line.number("images") == 5120
    assert line.number("rate_per_s") == pytest.approx(81.23)
    assert line.number("slow") == pytest.approx(1.5e-5)
    assert line.count("rate_per_s") is None
    for read in (line.count, line.number):
        assert read("waiting_on") is None
        assert read("absent") is None


@pytest.mark.parametrize("text", ["", "-1", "1_000", "\u0663", " 1", "nan", "inf", "1e999", "9" * 16, "9" * 10_000])
def test_a_value_that_is_not_a_number_is_read_as_none(text: str) -> None:
    line = LogLine("2026-11-23T15:20:25.123Z", "info", "embedded", {"images": text})
    assert line.count("images") is None
    assert line.number("images") is None


@pytest.mark.parametrize("number", [0.0, 1e-9, 0.1, 81.23456, 999.9999, 1000.0, 123_456_789.0, 1.5e-5])
def test_a_number_that_is_logged_is_read_back(number: float, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    log.info("embedded", rate_per_s=number)
    line = parse_line(capsys.readouterr().err)
    assert line is not None
    assert line.number("rate_per_s") == pytest.approx(number, rel=1e-3)


def test_passwords_and_signatures_reach_no_line() -> None:
    secret = "https://user:hunter2@host.example/a.jpg?X-Amz-Signature=abcdef&X-Amz-Credential=AKIA&size=3"
    text = "\n".join(log_of(secret))
    for word in ("hunter2", "abcdef", "AKIA"):
        assert word not in text
    assert "size=3" in text


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://host/a.jpg?x=1", "https://host/a.jpg?x=1"),
        ("https://u:p@host/a", "https://***@host/a"),
        ("https://host/a?token=t&x=1", "https://host/a?token=***&x=1"),
        ("https://host/a?sig=t", "https://host/a?sig=***"),
        ("http://[broken", "<unreadable URL>"),
        ("https://u:it's@host:8080/a", "https://***@host:8080/a"),
        ("https://u:p%40ss@host/a", "https://***@host/a"),
        ("https://u:pa/ss@host/a", "https://***"),
        ("https://u:p?ss@host/a", "https://***"),
        ("https://host:8080/photos/12@N00/1.jpg", "https://host:8080/photos/12@N00/1.jpg"),
        ("https://[2001:db8::1]:8080/a", "https://[2001:db8::1]:8080/a"),
        ("https://host/a?X%2DAmz%2DSignature=abc&b=1", "https://host/a?X%2DAmz%2DSignature=***&b=1"),
        ("https://host/a?size=1024x768&q=0123456789abcdef0123456789abcdef", "https://host/a?size=1024x768&q=***"),
        ("https://host/a?0123456789abcdef0123456789abcdef", "https://host/a?***"),
        ("https://host/a#access_token=t&page=2", "https://host/a#access_token=***&page=2"),
        ("s3://AKIA:secret@bucket/key", "s3://***@bucket/key"),
    ],
)
def test_a_url_is_redacted_where_it_may_hold_a_secret(url: str, redacted: str) -> None:
    assert redact_url(url) == redacted
    assert redact_urls(f"see {url} there") == f"see {redacted} there"


@given(st.text())
def test_any_text_is_parsed_or_gives_none(text: str) -> None:
    parse_line(text)
    parse_line(f"2026-11-23T15:20:25.123Z info embedded {text}")


@pytest.mark.parametrize(
    "hostile", ["a" * 1_000_000, "http://" + "a" * 1_000_000, "http://a/?" + "key" * 300_000, "://" * 300_000]
)
def test_a_hostile_text_of_a_megabyte_is_redacted_quickly(hostile: str) -> None:
    redact_urls(hostile)


@pytest.mark.parametrize("hostile", ["\x1b[31mred", "a\rb\nc", "\u202egnp.exe", "\ud800", "\x9b31m", "\x00", "\u2028"])
def test_no_control_character_and_no_line_end_reaches_the_log(hostile: str) -> None:
    shown = printable(hostile)
    assert shown.isprintable()
    shown.encode()
