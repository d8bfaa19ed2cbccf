"""Logs: one event a line, `time level event key=value …`, on standard error, the chunk among the keys.

    2026-11-23T15:20:25.123Z info embedded chunk=7 images=5120 of=10000 failed=12 rate_per_s=812

`embedder run` and `embedder status` read the same lines back with `parse_line`.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO
from urllib.parse import urlsplit, urlunsplit

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

log: FilteringBoundLogger = structlog.get_logger()

CHUNK_REFUSED = "chunk_refused"
"""The event by which a merge names a chunk file that it refuses, and `embedder run` learns what to compute again."""


def configure_logs(level: str = "info", **bound: Any) -> None:  # noqa: ANN401 - any value that prints
    """Send this program's events, and other libraries' warnings, to standard error with `bound` on every line."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(_Lossy(sys.stderr)),  # type: ignore[arg-type]
    )
    bind_logs(**bound)
    logging.captureWarnings(capture=True)
    logging.basicConfig(level=logging.WARNING, handlers=[_ForeignHandler()], force=True)


def bind_logs(**bound: Any) -> None:  # noqa: ANN401 - any value that prints
    """Put `bound` on every further line, of every thread that is started from here on or has its own context."""
    _ALWAYS.update(bound)


_ALWAYS: dict[str, Any] = {}


class _Lossy:
    """A stream that may lie on a full disk, or be a pipe that nobody reads: lines are lost then, not the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class _ForeignHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.warning("library", logger=record.name, message=record.getMessage())


def _render(_: WrappedLogger, __: str, event: EventDict) -> str:
    head = [_milliseconds(str(event.pop("timestamp"))), str(event.pop("level")), str(event.pop("event"))]
    exception = event.pop("exception", None)
    line = " ".join([*head, *(f"{key}={_value(value)}" for key, value in {**_ALWAYS, **event}.items())])
    return line if exception is None else f"{line}\n{exception}"


def _milliseconds(timestamp: str) -> str:
    return f"{timestamp[:23]}Z"


_PLAIN = re.compile(r"[\w@%+:,./\-\[\]()<>*~]+")


def _value(value: object) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    text = redact_urls(str(value)).encode("utf-8", "backslashreplace").decode()
    if _PLAIN.fullmatch(text):
        return text
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


class LogLine(NamedTuple):
    time: str
    level: str
    event: str
    values: dict[str, str]


def parse_line(line: str) -> LogLine | None:
    """Return the event that `configure_logs` wrote as `line`, None for any other text."""
    try:
        time, level, event, *pairs = shlex.split(line)
    except ValueError:
        return None
    if not _TIME.fullmatch(time):
        return None
    return LogLine(time, level, event, dict(pair.partition("=")[::2] for pair in pairs))


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


_URL = re.compile(r"""[a-z][a-z0-9+.\-]*://[^\s"'<>]+""", re.IGNORECASE)


def redact_urls(text: str) -> str:
    """Return `text` with the user information and the query values of every URL in it replaced: both may be secrets."""
    return _URL.sub(lambda match: redact_url(match[0]), text)


def redact_url(url: str) -> str:
    """Return `url` without user information and without the values of a signature in its query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<unreadable URL>"
    netloc = parts.netloc.rpartition("@")[2]
    if netloc != parts.netloc:
        netloc = f"***@{netloc}"
    query = _SECRET_PARAMETER.sub(r"\1=***", parts.query)
    if (netloc, query) == (parts.netloc, parts.query):
        return url
    return urlunsplit(parts._replace(netloc=netloc, query=query))


_SECRET_PARAMETER = re.compile(
    r"((?:^|(?<=&))[^=&]*(?:sign|sig|token|key|secret|credential|password|auth)[^=&]*)=[^&]*", re.IGNORECASE
)
