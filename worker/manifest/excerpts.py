"""Excerpts of a manifest's text, for the ledger, the log and errors."""

from __future__ import annotations

from common.logs import redact_urls

EXCERPT_LENGTH = 200
"""Largest number of characters in an excerpt."""


class Repeated(tuple[object, ...]):
    """The different values of a key that an object of JSON has more than once."""

    __slots__ = ()


class Unreadable:
    """A value of Parquet that Python cannot have: times in nanoseconds, or a number that the file has rounded."""


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (Repeated, "given more than once"),
    (Unreadable, "a value that cannot be read exactly"),
    (dict, "an object"),
    ((list, tuple), "a list"),
    (bool, "true or false"),
    ((int, float), "a number"),
    ((str, bytes), "a text"),
    (type(None), "null"),
)

REDACTED_LENGTH = 4096
"""Number of characters of the text in which URLs are redacted. The excerpt is the start of the result."""


def kind_in_words(value: object) -> str:
    """Return what a value of JSON or Parquet is, in words: `an object`, `a list`, `a number`."""
    for types, words in _KINDS:
        if isinstance(value, types):
            return words
    return type(value).__name__


def excerpt(text: str) -> str:
    """Return the start of `text`, without passwords and signatures of URLs.

    Control characters and lone surrogates are escaped.
    """
    redacted = redact_urls(text[:REDACTED_LENGTH])
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in redacted[:EXCERPT_LENGTH])
    is_cut = len(redacted) > EXCERPT_LENGTH or len(escaped) > EXCERPT_LENGTH
    return f"{escaped[:EXCERPT_LENGTH]}…" if is_cut else escaped
