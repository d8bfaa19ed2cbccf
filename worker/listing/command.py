"""The listing from its arguments to its last word."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError, ManifestError
from common.format.chunk_file import Failure
from common.logs import log, redact_url
from common.process.program import Finished
from common.process.resources import temporary_folder, written_file
from common.settings import read_settings
from common.store import open_store
from common.store.contract import ObjectExists
from worker.listing.list_file import OPEN_IMAGES_NAMES, PLAIN_NAMES, ListFile
from worker.listing.row_texts import Paths, RowTexts, texts_of
from worker.listing.unpacked import is_compressed_list, unpacked
from worker.manifest.manifest import open_manifest
from worker.manifest.places.local_source import local_path
from worker.manifest.places.uri_list import scheme_of
from worker.settings import FetchSettings, HttpSettings, ManifestSettings

if TYPE_CHECKING:
    from common.store.contract import Store
    from worker.manifest.manifest import Manifest

PROGRESS_SECONDS = 10
"""Time between two lines of progress in the log."""

EXAMPLES = 3
"""Number of left-out rows that the log shows."""


@dataclass(frozen=True)
class Written:
    """What was written."""

    rows: int
    left_out: int
    """Number of rows that have no URL that can be read."""


def write_list(arguments: list[str] | None = None) -> Finished:
    """Write the manifest that EMBEDDER_MANIFEST_URI names as a Parquet list, and return how many rows it has.

    Raises the errors of `open_manifest`, and ConfigError when there is such a file already.
    """
    destination, may_replace = _parse(sys.argv[1:] if arguments is None else arguments)
    settings, http = read_settings(ManifestSettings), read_settings(HttpSettings)
    target = _Target(destination)
    if not may_replace:
        target.check_is_free()
    is_compressed = is_compressed_list(settings.manifest_uri)
    with (
        unpacked(settings, http) if is_compressed else nullcontext(settings) as plain,
        temporary_folder("listing") as folder,
    ):
        manifest = open_manifest(plain, http=http, mirror_url=read_settings(FetchSettings).mirror_url)
        origin = manifest.folder if not is_compressed else _folder_of(settings.manifest_uri)
        path = folder / "list.parquet"
        with written_file(path):
            written = _write(manifest, path, Paths(origin, target.folder), subset=settings.subset)
        target.put(path, may_replace=may_replace)
    rest = f"; {written.left_out:,} rows that cannot be read are left out" if written.left_out else ""
    return Finished(f"{target.name} lists {written.rows:,} images{rest}")


def _parse(arguments: list[str]) -> tuple[str, bool]:
    parser = argparse.ArgumentParser(prog="python -m worker.listing", description="Write the manifest as one list.")
    parser.add_argument("destination", help="a path or s3:// URL that ends in .parquet")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if there is one")
    parsed = parser.parse_args(arguments)
    return parsed.destination, parsed.overwrite


class _Target:
    """Where the list is written: a file in a folder, or an object in a bucket."""

    def __init__(self, destination: str) -> None:
        if not destination.lower().endswith((".parquet", ".pq")):
            raise ConfigError(f"{redact_url(destination)} does not end in .parquet, and the list is a Parquet file")
        if scheme_of(destination) == "s3":
            place, _, self._key = destination.rpartition("/")
        else:
            path = local_path(destination)
            place, self._key = str(path.parent.resolve()), path.name
        self._store: Store = open_store(place)
        self.folder = None if scheme_of(destination) == "s3" else Path(place)
        self.name = self._store.location(self._key)

    def check_is_free(self) -> None:
        if self._store.stat(self._key) is not None:
            raise self._taken()

    def put(self, path: Path, *, may_replace: bool) -> None:
        try:
            self._store.put_file(self._key, path, overwrite=may_replace)
        except ObjectExists as error:
            raise self._taken() from error

    def _taken(self) -> ConfigError:
        return ConfigError(f"{self.name} exists; choose another name, or replace it with --overwrite")


def _folder_of(uri: str) -> Path | None:
    return local_path(uri).parent.resolve() if scheme_of(uri) == "file" else None


def _write(manifest: Manifest, path: Path, paths: Paths, *, subset: str) -> Written:
    if "bytes" in manifest.sources:
        raise ManifestError(
            f"{manifest.name} holds the images themselves, and a list would hold their names alone; give it to the "
            "workers as it is"
        )
    left_out = 0
    said = time.monotonic()
    with ListFile(path, _columns_of(manifest, subset=subset)) as file:
        for raw, checked in manifest.every_row():
            texts = texts_of(raw, checked)
            if texts is None:
                left_out += 1
                if isinstance(checked, Failure) and left_out <= EXAMPLES:
                    log.warning("row_left_out", detail=checked.detail)
            else:
                file.add(texts._replace(url=paths.moved(texts.url)))
            if time.monotonic() - said > PROGRESS_SECONDS:
                log.info("listing", rows=file.count)
                said = time.monotonic()
    if not file.count:
        raise ManifestError(f"{manifest.name} has no row with a URL")
    return Written(file.count, left_out)


def _columns_of(manifest: Manifest, *, subset: str) -> RowTexts:
    """Return the names of the columns that the list has."""
    columns = manifest.columns
    if columns is None:
        return RowTexts("url", "id" if manifest.has_ids else "", "", "", "")
    names = OPEN_IMAGES_NAMES if columns.is_open_images(subset=subset) else PLAIN_NAMES
    return RowTexts(
        names.url,
        names.id if manifest.has_ids else "",
        names.subset if columns.subset or subset else "",
        names.thumbnail if columns.thumbnail else "",
        names.rotation if columns.rotation else "",
    )
