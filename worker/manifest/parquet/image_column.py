"""Which column of a Parquet file holds the images themselves, if any."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from common.errors import ManifestError
from worker.manifest.excerpts import excerpt
from worker.manifest.parquet.column_types import is_binary, is_byte_list, is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IMAGE_NAMES = (
    *("image", "img", "picture", "photo", "pixel_values", "jpg", "jpeg", "png", "webp", "gif", "tiff", "bmp"),
    *("image_bytes", "img_bytes", "jpg_bytes", "image_data", "image_content", "image_binary"),
)
"""Names of columns with images, the preferred name first."""

BYTES_NAMES = ("bytes", "content", "data", "binary", "raw", "body", "file")
"""Names of columns that hold images or anything else."""

_SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\x01\0"),
    *(b"\0\0\0\x0cjP  ", b"\xffO\xffQ", b"\xff\n", b"\0\0\0\x0cJXL ", b"P4", b"P5", b"P6", b"qoif"),
)
"""The first bytes of the formats of images."""


class ImageColumn(NamedTuple):
    column: str
    """The name of the column."""
    content: str
    """The path of the bytes: the column, or the field of a struct such as `image.bytes`."""
    path: str | None
    """The field of the struct that names the image, such as `image.path`."""


def find_image_column(
    schema: pa.Schema, wanted: str, *, name: str, has_urls: bool, first_values: Callable[[str], Sequence[bytes]]
) -> ImageColumn | None:
    """Return the column of the file `name` with the images, None if there is none.

    `wanted` is the column that a setting names. Without it the column is found by its type and its name, and by its
    `first_values` where those leave a doubt. Where `has_urls`, a column of any other name is not considered. Raises
    ManifestError when the column that the setting names does not exist or holds no bytes.
    """
    found = {field.name: _image_column(field) for field in schema}
    columns = {each: column for each, column in found.items() if column is not None}
    if wanted:
        named = _first(found, (wanted,))
        if named is None:
            listed = ", ".join(excerpt(each) for each in schema.names[:20])
            raise ManifestError(f"{name} has no column {wanted!r}, its columns are {listed}; see EMBEDDER_IMAGE_COLUMN")
        if (column := found[named]) is None:
            raise ManifestError(
                f"{name}: the column {named} is {schema.field(named).type}, expected bytes or a struct of bytes and "
                "path; name the column with the images in EMBEDDER_IMAGE_COLUMN"
            )
        return column
    others = () if has_urls else tuple(each.lower() for each in columns)
    for each in (*IMAGE_NAMES, *BYTES_NAMES, *others):
        named = _first(columns, (each,))
        if named is not None and _holds_images(columns[named], schema.field(named).type, first_values):
            return columns[named]
    return None


def _first(names: dict[str, ImageColumn | None] | dict[str, ImageColumn], wanted: tuple[str, ...]) -> str | None:
    exact = [name for name in names if name in wanted]
    return next(iter(exact), next((name for name in names if name.lower() in {each.lower() for each in wanted}), None))


def _image_column(field: pa.Field) -> ImageColumn | None:
    if is_binary(field.type):
        return ImageColumn(field.name, field.name, None)
    if not pa.types.is_struct(field.type):
        return None
    fields = {each.name.lower(): each for each in reversed(list(field.type))}
    content, path = fields.get("bytes"), fields.get("path")
    if content is None or not (is_binary(content.type) or pa.types.is_null(content.type)):
        return None
    named = f"{field.name}.{path.name}" if path is not None and is_text(path.type) else None
    return ImageColumn(field.name, f"{field.name}.{content.name}", named)


def _holds_images(column: ImageColumn, kind: pa.DataType, first_values: Callable[[str], Sequence[bytes]]) -> bool:
    is_usual = column.column.lower() in IMAGE_NAMES
    if is_usual and pa.types.is_struct(kind):
        return True
    values = first_values(column.content)
    if is_usual and not is_byte_list(kind):
        return not values or not all(_is_text(value) for value in values)
    return any(_is_image(value) for value in values)


def _is_text(value: bytes) -> bool:
    """Return whether the bytes are a URL or a path, as some programs write text."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return False
    return text.isprintable()


def _is_image(value: bytes) -> bool:
    is_brand = value[4:8] == b"ftyp" and value[8:12] in {b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"}
    return value.startswith(_SIGNATURES) or is_brand or (value[:4] == b"RIFF" and value[8:12] == b"WEBP")
