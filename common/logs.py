"""Logs: one event in each line, `time level event key=value …`, on standard error. The chunk is always among the keys.

    2026-11-23T15:20:25.123Z info embedded chunk=7 images=5120 of=10000 failed=12 rate_per_s=812

`embedder run` and `embedder status` read the same lines back with `parse_line`.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import unquote, urlsplit

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

log: FilteringBoundLogger = structlog.get_logger()

CHUNK_STARTED = "started"
"""The event with which a worker says how many rows its chunk has. `embedder run` reads it."""

CHUNK_PROGRESS = "embedded"
"""The event with which a worker says how far its chunk is. `embedder run` and `embedder status` read it."""

SLOW_SITE = "slow_site"
"""The event with which a worker says, for one slow site, how often it is asked (`rate_per_s`), how many images are left
(`left`) and when they will be done (`done_in_s`). `embedder run` and `embedder status` read it."""

INDEX_PROGRESS = "index_progress"
"""The event with which a build of an index says how many `rows` it has, `of` how many. `embedder status` reads it."""

INDEX_STEP = "index_step"
"""The event with which a build of an index names the `step` that it begins. `embedder status` reads it."""

ROWS_TAKEN_OVER = "taken_over"
"""The event with which a top-up says how many rows of its chunk stay as they are (`embedded`, `failed`). `embedder run`
reads it."""

ROWS_RESUMED = "resumed"
"""The event with which a worker says how many rows of its chunk an earlier attempt has embedded (`rows`).
`embedder run` reads it."""

MANIFEST_FILES = "manifest_files"
"""The event with which a worker says which files are its manifest, and which are left out. `embedder run` reads it."""

TOO_MANY_FAILURES = "too_many_failures"
"""The event with which a worker that fails its chunk says how many images failed. `embedder run` shows it."""

IMAGES_FAILED = "failures"
"""The event with which a worker that fails its chunk says, for one reason, how many images failed, which for example,
and what helps. `embedder run` shows it."""

FAILING_HOSTS = "failing_hosts"
"""The event with which a worker that fails its chunk names the hosts with the most failures. `embedder run` shows
it."""

FAILURES_LISTED = "failures_listed"
"""The event with which a worker that fails its chunk names the file that lists all failed images. `embedder run` shows
it."""

CHUNK_REFUSED = "chunk_refused"
"""The event with which a merge names a chunk file that it refuses. `embedder run` computes that chunk again."""


def configure_logs(level: str = "info", **bound: Any) -> None:  # noqa: ANN401 - any value that prints
    """Send this program's events and the libraries' warnings to standard error, with `bound` in every line."""
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
    """Add `bound` to every further line of this process, in all threads."""
    _ALWAYS.update(bound)


_ALWAYS: dict[str, Any] = {}


class _Lossy:
    """A stream that drops what cannot be written: a full disk or a pipe without a reader must not end the work."""

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
    return " ".join([*head, *(f"{key}={_value(value)}" for key, value in {**_ALWAYS, **event}.items())])


def _milliseconds(timestamp: str) -> str:
    return f"{timestamp[:23]}Z"


_PLAIN = re.compile(r"[\w@%+:,./\-\[\]()<>*~]+")


def _value(value: object) -> str:
    if isinstance(value, float):
        value = f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    text = printable(redact_urls(str(value)))
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log line that was read back."""

    time: str
    level: str
    event: str
    values: dict[str, str]
    """The text of each value, by key."""

    def count(self, key: str) -> int | None:
        """Return a value as a whole number from 0, None when it is absent or not such a number."""
        text = self.values.get(key, "")
        return int(text) if _COUNT.fullmatch(text) else None

    def number(self, key: str) -> float | None:
        """Return a value as a number from 0, None when it is absent or not such a number."""
        text = self.values.get(key, "")
        return float(text) if _NUMBER.fullmatch(text) else None


_COUNT = re.compile(r"[0-9]{1,15}")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,15})?(?:e[+-]?[0-9]{1,2})?")
"""A number as `configure_logs` writes it: `812`, `81.23` or `1.5e-05`. Its length is bounded, as no log is trusted."""


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


# The scheme's length is bounded: otherwise the time for a long text without a URL would grow with its square.
_URL = re.compile(r"""[a-z][a-z0-9+.\-]{0,30}://[^\s"<>]+""", re.IGNORECASE)


def redact_urls(text: str) -> str:
    """Return `text` with every URL in it redacted, as `redact_url` does."""
    return _URL.sub(lambda match: redact_url(match[0]), text)


def redact_url(url: str) -> str:
    """Return `url` without user information, and without possible secrets in its query and its fragment."""
    try:
        urlsplit(url)
    except ValueError:
        return "<unreadable URL>"
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    rest, hash_sign, fragment = rest.partition("#")
    rest, question_mark, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    _, at, host = authority.rpartition("@")
    if at:
        authority = f"***@{host}"
    elif not _HOST_AND_PORT.fullmatch(authority):
        # The text after the colon is not a port, so it may be a password that holds a slash: its end is unknown.
        return f"{scheme}{separator}***"
    place = f"{scheme}{separator}{authority}{slash}{path}"
    return f"{place}{question_mark}{_redact_parameters(query)}{hash_sign}{_redact_parameters(fragment)}"


_HOST_AND_PORT = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::[0-9]*)?[^\w:@]*")
"""A host and its port, and the punctuation that may follow a URL: quotation marks, brackets."""

_SECRET_WORDS = (
    *("sign", "sig", "token", "key", "secret", "credential", "pass", "pwd", "auth", "session", "jwt", "bearer"),
    *("cookie", "access", "sas", "policy"),
)
_OPAQUE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w+/=%.~\-]{24,}")
"""A value that may be a secret, whatever its name."""


def _redact_parameters(text: str) -> str:
    return "&".join(map(_redact_parameter, text.split("&")))


def _redact_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    known = unquote(name[:100]).lower()
    if equals and value and (any(word in known for word in _SECRET_WORDS) or _OPAQUE.fullmatch(value)):
        return f"{name}=***"
    return "***" if not equals and _OPAQUE.fullmatch(name) else parameter


def printable(text: str) -> str:
    """Return `text` as one line without characters that control a terminal."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
