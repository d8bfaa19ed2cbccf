"""The columns of a list of Parquet files: which are used, and whether all files agree on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from common.errors import ManifestError
from worker.manifest.column_names import find_url_of_picture
from worker.manifest.columns import Columns, find_columns
from worker.manifest.parquet.column_types import is_binary, is_text, kind_of
from worker.manifest.parquet.image_column import find_image_column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.manifest.parquet.image_column import ImageColumn
    from worker.manifest.parquet.parquet_file import Footer
    from worker.settings import ManifestSettings

NAMING_COLUMNS = ("path", "file_path", "filepath", "image_path", "file_name", "filename", "name")
"""Names of columns of text that name an image whose bytes the file holds, and that may be no URLs."""


def find_parquet_columns(
    footer: Footer, settings: ManifestSettings, *, first_values: Callable[[str], Sequence[bytes]]
) -> Columns:
    """Return the columns to use of a file. Raises ManifestError as `find_columns` and `find_image_column`.

    `first_values` returns some values of a column of bytes.
    """
    schema, name = footer.schema, footer.source.name
    image = None
    if settings.sources == "auto" or "bytes" in settings.sources.split(","):
        image = find_image_column(
            schema,
            settings.image_column,
            name=name,
            has_urls=_url_columns(schema, settings, leave_out=None, name=name) is not None,
            first_values=first_values,
        )
    columns = _columns(schema, settings, image, name=name)
    for each in columns.present:
        if schema.names.count(each) > 1:
            raise ManifestError(f"{name} has {schema.names.count(each)} columns {each}; rename all but one")
    if columns.url != columns.image and not is_text(url_type := column_type(schema, columns.url)):
        raise ManifestError(
            f"{name}: the column {columns.url} is {url_type}, expected text; name the column with the URLs in "
            f"EMBEDDER_URL_COLUMN{_remedy(schema, settings)}"
        )
    return columns


def _columns(schema: pa.Schema, settings: ManifestSettings, image: ImageColumn | None, *, name: str) -> Columns:
    if image is None:
        return _paths_of_struct(schema, settings, name=name) or _columns_of_urls(schema, settings, name=name)
    columns = _url_columns(schema, settings, leave_out=image.column, name=name)
    if columns is None:
        # The image's own path, any column with paths, or no name at all.
        texts = {each.lower(): each for each in schema.names if schema.names.count(each) == 1}
        paths = [texts[each] for each in NAMING_COLUMNS if each in texts and is_text(schema.field(texts[each]).type)]
        url = image.path or next(iter(each for each in paths if each != image.column), image.content)
        columns = _with_url(schema, settings, url, name=name)
    return Columns(columns.url, columns.id, columns.subset, columns.thumbnail, columns.rotation, image.content)


def _columns_of_urls(schema: pa.Schema, settings: ManifestSettings, *, name: str) -> Columns:
    try:
        return _with_field(schema, find_columns(_names(schema, settings), settings, name=name))
    except ManifestError as error:
        raise ManifestError(f"{error}{_remedy(schema, settings)}") from error


def _remedy(schema: pa.Schema, settings: ManifestSettings) -> str:
    """Return what helps besides EMBEDDER_URL_COLUMN, where no setting names a column and some may hold images."""
    fields = [f"{field.name}.{each.name}" for field in schema if pa.types.is_struct(field.type) for each in field.type]
    if fields and not settings.url_column and not settings.id_column:
        return f" (a field of a struct as in {fields[0]}), or the column with the images in EMBEDDER_IMAGE_COLUMN"
    kinds = [field.type for field in schema]
    if (
        settings.url_column
        or settings.id_column
        or not any(is_binary(kind) or pa.types.is_nested(kind) for kind in kinds)
    ):
        return ""
    return ", or the column with the images in EMBEDDER_IMAGE_COLUMN"


def _paths_of_struct(schema: pa.Schema, settings: ManifestSettings, *, name: str) -> Columns | None:
    """Return the columns of a list whose only URLs are the paths in a struct that may hold images too."""
    if settings.url_column or _url_columns(schema, settings, leave_out=None, name=name) is not None:
        return None
    found = find_image_column(schema, settings.image_column, name=name, has_urls=True, first_values=lambda _: ())
    if found is None or found.path is None:
        return None
    return _with_url(schema, settings, found.path, name=name)


def _with_url(schema: pa.Schema, settings: ManifestSettings, url: str, *, name: str) -> Columns:
    return find_columns([*schema.names, url], settings.model_copy(update={"url_column": url}), name=name)


def _url_columns(schema: pa.Schema, settings: ManifestSettings, *, leave_out: str | None, name: str) -> Columns | None:
    """Return the columns to use, None if no column of text holds URLs."""
    names = [each for each in _names(schema, settings) if each != leave_out]
    if settings.url_column:
        return find_columns(names, settings, name=name)
    try:
        columns = find_columns(names, settings.model_copy(update={"id_column": ""}), name=name)
    except ManifestError:
        return None
    if not is_text(column_type(schema, _with_field(schema, columns).url)):
        return None
    return _with_field(schema, find_columns(names, settings, name=name))


def _names(schema: pa.Schema, settings: ManifestSettings) -> list[str]:
    """Return the names of the columns, and those fields of structs that settings name, such as `image.url`."""
    wanted = [each for each in (settings.url_column, settings.id_column) if each and each not in schema.names]
    return [*schema.names, *(each for each in wanted if _is_field(schema, each))]


def _is_field(schema: pa.Schema, path: str) -> bool:
    try:
        column_type(schema, path)
    except (KeyError, ValueError):
        return False
    return True


def _with_field(schema: pa.Schema, columns: Columns) -> Columns:
    """Return the columns with a field such as `image.url` where the column of the URLs is a struct."""
    kind = column_type(schema, columns.url)
    if not pa.types.is_struct(kind):
        return columns
    field = find_url_of_picture([each.name for each in kind if is_text(each.type)])
    return columns if field is None else replace(columns, url=f"{columns.url}.{field}")


def column_type(schema: pa.Schema, path: str) -> pa.DataType:
    """Return the type of a column, or of the field of a struct such as `image.path`.

    Raises ValueError or KeyError if there is none.
    """
    if path in schema.names:
        return schema.field(schema.names.index(path)).type
    struct, _, name = path.rpartition(".")
    kind = schema.field(schema.names.index(struct)).type
    if not pa.types.is_struct(kind):
        raise KeyError(path)
    return kind.field(name).type


def check_like(footer: Footer, first: Footer, columns: Columns) -> None:
    """Raise ManifestError unless the file has the `columns` of the file `first`, each of the same kind."""
    for path in columns.present:
        expected = column_type(first.schema, path)
        top = path if path in footer.schema.names else path.rpartition(".")[0]
        count = footer.schema.names.count(top)
        if count > 1:
            raise ManifestError(f"{footer.source.name} has {count} columns {top}; rename all but one")
        try:
            found = column_type(footer.schema, path)
        except (KeyError, ValueError):
            raise ManifestError(
                f"{footer.source.name} has no column {path}, and {first.source.name} has one; the files of a manifest "
                "need the same columns, so name only files that belong together"
            ) from None
        kinds = {kind_of(found), kind_of(expected)} - {"null"}
        if len(kinds) > 1:
            raise ManifestError(
                f"the column {path} is {found} in {footer.source.name} and {expected} in {first.source.name}; the "
                "files of a manifest need the same columns, so name only files that belong together"
            )
