"""The types of a Parquet file's columns: which of them hold text, which hold images, and which mean the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARY = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
_NUMBER = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column may hold text. Some programs write text as bytes."""
    return _is_any(_plain(kind), *_TEXT, *_BINARY[:-1])


def is_binary(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes, and is not declared as text."""
    return _is_any(_plain(kind), *_BINARY) or is_byte_list(kind)


def is_byte_list(kind: pa.DataType) -> bool:
    """Return whether a column holds lists of numbers from 0 to 255, as bytes are written by some programs."""
    return bool((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_uint8(kind.value_type))


def kind_of(kind: pa.DataType) -> str:
    """Return a word for what a column holds. Files with columns of one kind are one list.

    Programs choose the width of numbers and of offsets, and dictionaries, for each file. A column of whole numbers
    becomes one of floats where a value is missing, and one of nulls where all are.
    """
    kind = _plain(kind)
    if pa.types.is_null(kind):
        return "null"
    if _is_any(kind, *_TEXT, *_BINARY):
        return "text or bytes"
    return "number" if _is_any(kind, *_NUMBER) else str(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_any(kind: pa.DataType, *tests: Callable[[pa.DataType], bool]) -> bool:
    return any(test(kind) for test in tests)
