"""Parquet files that hold pictures, for tests."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def jpeg(shade: int, *, side: int = 32) -> bytes:
    """Return a small picture of one shade of grey, 0 to 255."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


def struct_table(pictures: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.Table:
    """Return a table as Hugging Face writes it, with a column `image` of structs."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": picture, "path": path} for picture, path in zip(pictures, paths, strict=True)]
    return pa.table({"image": pa.array(cells, kind), "label": list(range(len(cells)))})


def write_parquet(path: Path, table: pa.Table, *, row_group_size: int = 1000, **options: object) -> Path:
    parquet.write_table(table, path, row_group_size=row_group_size, **options)
    return path
