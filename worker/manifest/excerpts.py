"""What the ledger and the log show of a manifest's text."""

from __future__ import annotations

from common.logs import redact_urls

EXCERPT_LENGTH = 200
"""Characters of a bad row that its record shows."""


LOOKED_AT = 4096
"""Characters of a bad row in which URLs are redacted."""


def shown(text: str) -> str:
    """Return an excerpt for the ledger and the log: without passwords and signatures of URLs."""
    return excerpt(redact_urls(text[:LOOKED_AT]))


def excerpt(text: str) -> str:
    """Return the start of `text` with control characters and lone surrogates escaped."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:EXCERPT_LENGTH])
    return f"{shown[:EXCERPT_LENGTH]}…" if len(text) > EXCERPT_LENGTH or len(shown) > EXCERPT_LENGTH else shown
