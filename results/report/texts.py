"""How a report writes numbers, times and texts of the list."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime

from common.durations import format_duration
from common.format.chunk_times import read_time
from common.logs import redact_urls

LONGEST_TEXT = 400
"""Largest number of characters of a text of the list that are shown."""

_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
"""The Unicode categories of characters that do not show, or that change how others show, as bidi controls do."""

_LINK = re.compile(r"https?://[!-~]+", re.IGNORECASE)


def visible(text: str) -> str:
    """Return the text with an escape in the place of each character that does not show."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(each) if unicodedata.category(each) in _UNSEEN else each for each in text)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def listed_text(text: str) -> str:
    """Return a text of the list as a report shows it: not too long, and without secrets of URLs."""
    text = redact_urls(text)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def link(url: str) -> str | None:
    """Return the URL if a page may link to it, None for any other scheme, an odd character, a secret or a long URL."""
    return url if _LINK.fullmatch(url) and listed_text(url) == url else None


def number(value: float) -> str:
    """Return a whole number with thousands separators, any other one with three significant digits."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{round(value):,}"
    return f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def rate(value: float) -> str:
    """Return a rate with three digits, or all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def share(part: float, whole: float) -> str:
    """Return a share in per cent. What is not all and not nothing is never written as 100 or 0."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        return "under 0.01 %"
    if 99.99 < percent < 100:
        return "over 99.99 %"
    return f"{percent:.2f}".rstrip("0").rstrip(".") + " %"


def size(byte_count: int) -> str:
    """Return a size in bytes, kB, MB, GB or TB, with three significant digits."""
    value, unit = float(byte_count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{byte_count:,} bytes" if unit == "bytes" else f"{value:.3g} {unit}"


def money(value: float) -> str:
    """Return an amount with cents, or with two significant digits where it is less than one."""
    return f"{value:,.2f}" if value >= 1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Return a duration as people read it, with tenths of a second where it is short."""
    return format_duration(seconds) if seconds >= 10 else f"{seconds:.1f}s"


def written_moment(text: str) -> str:
    """Return a time in ISO 8601 as `moment` writes it, and any other text as it is."""
    time = read_time(text)
    return text if time is None else f"{moment(time.timestamp())} UTC"


def moment(posix_seconds: float) -> str:
    """Return a time in UTC, to the second."""
    return datetime.fromtimestamp(posix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
