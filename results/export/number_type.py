"""The types of an export's numbers. The command line offers them, so nothing here imports NumPy."""

from __future__ import annotations

from enum import StrEnum


class NumberType(StrEnum):
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"

    @property
    def item_bytes(self) -> int:
        return {NumberType.FLOAT32: 4, NumberType.FLOAT16: 2, NumberType.INT8: 1}[self]
