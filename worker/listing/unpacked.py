"""A compressed list, unpacked into a temporary file: what no pod could read in part is read whole once."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import zlib
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.process.resources import temporary_folder, written_file
from worker.manifest.manifest_format import FORMATS, ending_of
from worker.manifest.places.byte_source import BLOCK_BYTES
from worker.manifest.places.open_source import open_source
from worker.manifest.places.source_file import SourceFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.settings import HttpSettings, ManifestSettings

_UNPACKED_ENDINGS = {".gz", ".bz2", ".xz"}


def is_compressed_list(uri: str) -> bool:
    """Return whether `uri` names one compressed list, such as `list.csv.gz`, and no compressed tar."""
    return ending_of(uri) in _UNPACKED_ENDINGS and FORMATS.get(ending_of(_plain_name(uri)), "tar") != "tar"


@contextmanager
def unpacked(settings: ManifestSettings, http: HttpSettings) -> Iterator[ManifestSettings]:
    """Give the settings of the same list in a plain temporary file, which is removed after the block.

    Raises ManifestError when the list cannot be unpacked, and ResourceExhausted when the disk has no room for it.
    """
    uri = settings.manifest_uri
    source = open_source(uri, http, token=settings.manifest_token.get_secret_value())
    with temporary_folder("list") as folder:
        path = folder / PurePosixPath(_plain_name(uri)).name
        with written_file(path), path.open("wb") as file:
            try:
                with _decompressor(ending_of(uri), io.BufferedReader(SourceFile(source), BLOCK_BYTES)) as plain:
                    shutil.copyfileobj(plain, file, BLOCK_BYTES)
            except (OSError, lzma.LZMAError, zlib.error, EOFError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the disk's
                raise ManifestError(f"{source.name} cannot be unpacked: {error}") from error
        yield settings.model_copy(update={"manifest_uri": str(path)})


def _decompressor(ending: str, file: io.BufferedReader) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    if ending == ".gz":
        return gzip.GzipFile(fileobj=file)
    return bz2.BZ2File(file) if ending == ".bz2" else lzma.LZMAFile(file)


def _plain_name(uri: str) -> str:
    return uri[: len(uri) - len(ending_of(uri))] if ending_of(uri) in _UNPACKED_ENDINGS else uri
