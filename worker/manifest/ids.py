"""Ids as lists have them: texts, numbers that became floats, objects of a database, UUIDs of 16 bytes."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
import uuid
from decimal import Decimal

from worker.manifest.excerpts import excerpt, kind_in_words

EXACT_FLOATS = 2**53
"""The largest float up to which every integer has a float of its own."""

UUID_BYTES = 16

DIGEST_BYTES = {20, 32, 64}
"""Sizes of the digests SHA-1, SHA-256 and SHA-512 in bytes."""

NULL = "\\N"
"""How MySQL, PostgreSQL and Hive write that there is no value."""

MAX_DEPTH = 4
"""Largest number of objects, one in the other, in which an id is searched for."""


def id_text(value: object, *, max_bytes: int) -> str:
    """Return the id as text without surrounding whitespace, an empty text for none.

    Raises ValueError, which says why, when the value has no text of its own or one of more than `max_bytes` bytes.
    """
    text = _text(value, MAX_DEPTH).strip()
    if text == NULL:
        return ""
    if "\0" in text:
        raise ValueError(f"has a NUL character: {excerpt(text)}")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"is not Unicode text: {excerpt(text)}")
    size = len(text.encode())
    if size > max_bytes:
        # Every row of the result is as wide as the widest id.
        raise ValueError(f"has {size} bytes, EMBEDDER_MAX_URL_BYTES is {max_bytes}")
    return text


def _text(value: object, depth: int) -> str:
    text: str | None = None
    match value:
        case None:
            text = ""
        case bool():
            pass
        case str() | int() | uuid.UUID():
            text = str(value)
        case dt.date() if not isinstance(value, dt.datetime):
            text = value.isoformat()
        case float():
            text = _text_of_float(value)
        case Decimal():
            text = _text_of_decimal(value)
        case bytes():
            text = _text_of_bytes(value)
        case dict() if len(value) == 1 and depth:
            text = _text_in_object(value, depth)
    if text is None:
        raise ValueError(f"is {kind_in_words(value)}, expected text")
    return text


def _text_of_float(value: float) -> str:
    if math.isnan(value):
        return ""
    if not value.is_integer():
        if math.isinf(value):
            raise ValueError("is infinite")
        return repr(value)
    if abs(value) > EXACT_FLOATS:
        raise ValueError(f"is the float {value!r}, which several integers become")
    return str(int(value))


def _text_of_decimal(value: Decimal) -> str:
    if value.is_nan():
        return ""
    if value.is_infinite():
        raise ValueError("is infinite")
    return str(int(value)) if value == value.to_integral_value() else f"{value:f}"


def _text_of_bytes(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and text:
        return text
    if len(value) == UUID_BYTES:
        return str(uuid.UUID(bytes=value))
    if len(value) in DIGEST_BYTES:
        return value.hex()
    if text or not value:
        return text
    raise ValueError(f"is not UTF-8: {excerpt(repr(value))}")


def _text_in_object(value: dict[str, object], depth: int) -> str:
    """Return the id in an object of one key, such as `{"$oid": "…"}` of MongoDB."""
    ((key, inner),) = value.items()
    if key == "$binary" and isinstance(inner, dict) and isinstance(encoded := inner.get("base64"), str):
        try:
            return _text_of_bytes(base64.b64decode(encoded, validate=True))
        except binascii.Error:
            raise ValueError(f"is not base64: {excerpt(encoded)}") from None
    return _text(inner, depth - 1)
