"""Excerpts of a manifest's text, for the ledger, the log and errors."""

from __future__ import annotations

from common.logs import redact_urls

EXCERPT_LENGTH = 200
"""Largest number of characters in an excerpt."""

REDACTED_LENGTH = 4096
"""Number of characters of the text in which URLs are redacted. The excerpt is the start of the result."""


def excerpt(text: str) -> str:
    """Return the start of `text`, without passwords and signatures of URLs.

    Control characters and lone surrogates are escaped.
    """
    redacted = redact_urls(text[:REDACTED_LENGTH])
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in redacted[:EXCERPT_LENGTH])
    is_cut = len(redacted) > EXCERPT_LENGTH or len(escaped) > EXCERPT_LENGTH
    return f"{escaped[:EXCERPT_LENGTH]}…" if is_cut else escaped
