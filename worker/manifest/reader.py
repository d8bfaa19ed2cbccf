"""The reader of each format of manifests, and the sources of the images that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.manifest.columns import resolve_sources, resolve_sources_of_shards, sources_of_ids
from worker.manifest.image_ids import are_image_ids
from worker.manifest.json.line_rows import JsonLinesRows
from worker.manifest.json.rows import JsonRows
from worker.manifest.picture_rows import PictureRows
from worker.manifest.tar.rows import TarRows
from worker.manifest.text.delimited_rows import DelimitedRows
from worker.manifest.text.rows import TextRows
from worker.manifest.text.txt_layout import open_txt

if TYPE_CHECKING:
    from worker.manifest.manifest_files import ManifestFiles
    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.raw_rows import RowReader
    from worker.settings import ManifestSettings


def open_reader(files: ManifestFiles, ids: ByteSource | None, settings: ManifestSettings) -> RowReader:  # noqa: PLR0911 - one return for each format
    kind, sources = files.format, files.sources
    if kind == "images":
        return PictureRows(files.pictures)
    if kind == "parquet":
        # pyarrow takes 30 MB of memory, which no other format needs.
        from worker.manifest.parquet.rows import ParquetRows  # noqa: PLC0415

        return ParquetRows(sources, settings)
    if kind == "tar":
        return TarRows(sources)
    if kind == "json":
        return JsonRows(sources, ids, settings)
    if kind == "jsonl":
        return JsonLinesRows(sources, settings)
    if kind == "txt":
        return open_txt(sources, settings)
    return DelimitedRows(sources, settings, delimiter="\t" if kind == "tsv" else ",")


def rows_are_ids(reader: RowReader, files: ManifestFiles, settings: ManifestSettings) -> bool:
    """Return whether the rows are ids of Open Images, without URLs. Raises ManifestError if their subset is missing."""
    if reader.columns is not None:
        return reader.columns.are_ids
    texts = reader.first_texts if isinstance(reader, TextRows | JsonLinesRows | JsonRows) else []
    return are_image_ids(texts, subset=settings.subset, folder=files.folder, name=files.name)


def sources_of(
    files: ManifestFiles, reader: RowReader, settings: ManifestSettings, *, are_ids: bool, are_read_here: bool
) -> tuple[str, ...]:
    """Return the sources of the images. `are_read_here` tells whether the worker reads any file by itself."""
    if files.format == "tar":
        return resolve_sources_of_shards(settings.sources, name=files.name)
    if are_ids:
        return sources_of_ids(settings.sources, name=files.name)
    wanted = settings.sources
    if files.format == "images" and are_read_here and wanted == "auto":
        wanted = "bytes"
    return resolve_sources(wanted, reader.columns, name=files.name, subset=settings.subset)
