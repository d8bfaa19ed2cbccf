"""The values of a Parquet column as Python has them. One value that Python cannot have costs no other one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from worker.manifest.excerpts import Unreadable

_EXACT_INTEGERS = {pa.float16(): 2**11, pa.float32(): 2**24}
"""Largest number up to which each integer has a float of its own, for floats that are narrower than Python's."""


def values_of(column: pa.Array) -> list[Any]:
    """Return the values, with None for nulls, bytes for text, and Unreadable for what has no value in Python."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # A column of text may hold bytes that are not UTF-8. Read as bytes, they fail their own row and no other one.
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    elif pa.types.is_string_view(column.type):
        column = column.cast(pa.binary_view())
    try:
        values: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        values = [_value(each) for each in column]
    largest = _EXACT_INTEGERS.get(column.type)
    if largest is not None:
        return [Unreadable() if value is not None and abs(value) > largest else value for value in values]
    return values


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except (pa.ArrowException, ValueError, OverflowError):
        return Unreadable()
