"""The chunk file: one chunk's vectors, URLs and failures, with what made them, as HDF5.

    urls        (rows,) fixed-length bytes, UTF-8     the manifest's URLs, in the manifest's order
    ids         (rows,) fixed-length bytes, UTF-8     where the manifest has ids
    embeddings  (rows, dimensions) float32            row r belongs to urls[r]; each of L2 norm 1
    failures/   row, url, id, reason, detail          the images that did not embed, in the manifest's order

Before it stands a seal (see common.format.seal), by which damage to what describes the rows is found.

Datasets are contiguous and uncompressed, so that a vector is a byte range. All metadata lies in the first 16 KiB:
one ranged read tells everything but the rows. Where it is more, it takes another.
"""

from __future__ import annotations

import hashlib
import math
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import h5py
import numpy as np

from common.errors import ChunkInvalid, StoreUnavailable
from common.format.hdf5 import Dataset, lay_out
from common.format.provenance import Provenance, program_version
from common.format.seal import SEAL_BYTES, open_sealed, seal
from common.process.resources import exhausted, sentence, written_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from common.format.reasons import Reason

SCHEMA_VERSION = 1

DIGEST = "sha256"
"""A dataset's attribute: the digest of its bytes, by which a flipped bit is found."""

METADATA_BYTES = 16_384
"""What is read to know everything but the rows, which takes 8.8 KiB, or more where the texts of attributes are long."""

BLOCK_BYTES = 4 << 20
"""Of rows that are read and checked together."""

SLICE_BYTES = 1 << 20
"""Of rows that are written together."""

READ_ERRORS = (OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What h5py and NumPy raise over files that are none of this program's."""

NORM_TOLERANCE = 1e-3
"""How far from 1 the norm of a stored row may be. float32 division by its own norm ends within 1e-6."""


@dataclass(frozen=True, slots=True)
class Failure:
    row: int
    """Position within the chunk's rows, from 0."""
    url: str
    """The manifest's URL, "" where the row has none that can be read."""
    reason: Reason
    detail: str
    id: str = ""


class Rows(Protocol):
    """An array, or what gives slices of it like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The content of a chunk file."""

    index: int
    urls: Sequence[str]
    ids: Sequence[str] | None
    embeddings: Rows
    """(len(urls), dimensions) float32, rows of L2 norm 1; read more than once, some at a time."""
    failures: Sequence[Failure]
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class DatasetSpan:
    """Where a dataset lies in its file: `rows` times `row_bytes` bytes from `offset`, which is 0 without any."""

    offset: int
    rows: int
    row_bytes: int
    sha256: str
    """Of those bytes, as the worker had them."""


@dataclass(frozen=True, kw_only=True)
class ChunkHeader:
    """What a chunk file says of itself, without its rows."""

    index: int
    requested: int
    embedded: int
    failed: int
    dimensions: int
    provenance: Provenance
    fingerprint: str
    program_version: str
    created_at: str
    spans: dict[str, DatasetSpan] = field(repr=False)
    """By name: `urls`, `embeddings`, `ids` (where there are any), `failures/url` and so on."""


def write_chunk(path: Path, chunk: Chunk) -> None:
    """Write the chunk file, a new one.

    Raises ChunkInvalid, before anything is written, when the chunk breaks an invariant, and ResourceExhausted.
    """
    check_rows(chunk)
    columns: dict[str, Rows] = {"urls": to_bytes_column(chunk.urls)}
    if chunk.ids is not None:
        columns["ids"] = to_bytes_column(chunk.ids)
    columns["embeddings"] = chunk.embeddings
    columns["failures/row"] = np.array([failure.row for failure in chunk.failures], dtype=np.int64)
    for name in FAILURE_TEXTS:
        columns[f"failures/{name}"] = to_bytes_column([getattr(failure, name) for failure in chunk.failures])
    skeleton = lay_out(
        run_attributes(chunk.provenance)
        | {
            "chunk_index": chunk.index,
            "rows_requested": len(chunk.urls) + len(chunk.failures),
            "rows_embedded": len(chunk.urls),
            "rows_failed": len(chunk.failures),
        },
        {name: Dataset(data.shape, data.dtype, {DIGEST: sha256(data)}) for name, data in columns.items()},
        user_block_bytes=SEAL_BYTES,
    )
    sealed = skeleton.metadata[0][SEAL_BYTES:]
    parts: dict[int, Iterable[bytes | memoryview]] = {offset: [data] for offset, data in skeleton.metadata.items()}
    parts[0] = [seal(sealed, size=skeleton.size), sealed]
    parts |= {skeleton.offsets[name]: _pieces(data) for name, data in columns.items() if math.prod(data.shape)}
    with written_file(path), path.open("wb") as file:
        for offset in sorted(parts):
            file.writelines(parts[offset])
        file.flush()
        # A disk at the other end of a network may find out only now that it has no room.
        os.fsync(file.fileno())


FAILURE_TEXTS = ("url", "id", "reason", "detail")


def check_rows(chunk: Chunk) -> None:
    """Raise ChunkInvalid when rows, norms or failures do not add up."""
    name = f"chunk {chunk.index}"
    rows = len(chunk.urls)
    if len(chunk.embeddings.shape) != 2 or chunk.embeddings.shape[0] != rows or chunk.embeddings.dtype != np.float32:
        raise ChunkInvalid(f"{name}: {rows} urls and embeddings of shape {chunk.embeddings.shape}")
    if chunk.ids is not None and len(chunk.ids) != rows:
        raise ChunkInvalid(f"{name}: {rows} urls and {len(chunk.ids)} ids")
    for start, vectors in _slices(chunk.embeddings):
        check_norms(vectors, name=name, first_row=start)


def check_norms(embeddings: NDArray[np.float32], *, name: str, first_row: int = 0) -> None:
    """Raise ChunkInvalid, naming the first bad row, unless every row of (rows, dimensions) is finite and of norm 1.

    The first of them is row `first_row` of what has that name.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
    bad = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))  # NaN compares false
    if bad.size:
        raise ChunkInvalid(
            f"{name}: {bad.size} rows are not of norm 1, the first is row {first_row + bad[0]}: {norms[bad[0]]}"
        )


def read_header(file: BinaryIO, *, name: str) -> ChunkHeader:
    """Return the header of an open chunk file. Raises ChunkInvalid, with `name`, when it is none or does not add up."""
    with _damage(f"{name} is no chunk file, or damaged"), open_sealed(file, name=name) as chunk:
        return _header(chunk, size=file.seek(0, 2))


def verify_chunk(file: BinaryIO, *, name: str) -> ChunkHeader:
    """Return the header of an open chunk file, once its every byte is as the worker wrote it; reads the whole file.

    Raises ChunkInvalid, with `name`, when it is not, or when a row is not of norm 1.
    """
    header = read_header(file, name=name)
    try:
        damaged = [dataset for dataset, span in header.spans.items() if _digest(file, span) != span.sha256]
        if not damaged:
            _check_all_norms(file, header, name=name)
    except OSError as error:
        raise StoreUnavailable(sentence(error, name)) from error
    if damaged:
        raise ChunkInvalid(f"{name} is damaged: {', '.join(damaged)} are not the bytes that were written")
    return header


def _digest(file: BinaryIO, span: DatasetSpan) -> str:
    digest = hashlib.sha256()
    for block in _blocks(file, span):
        digest.update(block)
    return digest.hexdigest()


def _check_all_norms(file: BinaryIO, header: ChunkHeader, *, name: str) -> None:
    row = 0
    for block in _blocks(file, header.spans["embeddings"]):
        vectors = np.frombuffer(block, np.float32).reshape(-1, header.dimensions)
        check_norms(vectors, name=name, first_row=row)
        row += len(vectors)


def _blocks(file: BinaryIO, span: DatasetSpan) -> Iterator[bytes]:
    """Yield the span's rows, some at a time."""
    file.seek(span.offset)
    left, at_once = span.rows, max(1, BLOCK_BYTES // span.row_bytes)
    while left:
        rows = min(left, at_once)
        yield file.read(rows * span.row_bytes)
        left -= rows


@contextmanager
def _damage(what: str) -> Iterator[None]:
    try:
        yield
    except READ_ERRORS as error:
        # What is imported only now, a codec for one, may find no open file left: that is no damage.
        raise exhausted(error) or ChunkInvalid(f"{what}: {error}") from error


def _header(file: h5py.File, *, size: int) -> ChunkHeader:
    provenance = read_provenance(file)
    attributes = file.attrs
    spans = {}
    for name in ("urls", "ids", "embeddings", "failures/row", *(f"failures/{text}" for text in FAILURE_TEXTS)):
        if name != "ids" or name in file:
            spans[name] = _span(_dataset(file, name), name)
    header = ChunkHeader(
        index=int(attributes["chunk_index"]),
        requested=int(attributes["rows_requested"]),
        embedded=int(attributes["rows_embedded"]),
        failed=int(attributes["rows_failed"]),
        dimensions=int(file["embeddings"].shape[1]),
        provenance=provenance,
        fingerprint=str(attributes["fingerprint"]),
        program_version=str(attributes["program_version"]),
        created_at=str(attributes["created_at"]),
        spans=spans,
    )
    counts = {"embeddings": header.embedded, "urls": header.embedded, "ids": header.embedded}
    for name, span in spans.items():
        expected = counts.get(name, header.failed)
        if span.rows != expected:
            raise ValueError(f"{name} has {span.rows} rows, its attributes say {expected}")
        if span.offset + span.rows * span.row_bytes > size:
            raise ValueError(f"it has {size} bytes, too few for its {name}")
    if header.requested != header.embedded + header.failed:
        raise ValueError(f"requested {header.requested} is not embedded {header.embedded} + failed {header.failed}")
    if header.fingerprint != provenance.fingerprint:
        raise ValueError("the fingerprint is not that of the provenance beside it")
    return header


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    # A link of another kind could lead into any other file of this machine.
    for each in filter(None, (name.rpartition("/")[0], name)):
        if not isinstance(file.get(each, getlink=True), h5py.HardLink):
            raise TypeError(f"{each} is not there, or elsewhere")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"{name} is no dataset")
    return found


def _span(dataset: h5py.Dataset, name: str) -> DatasetSpan:
    kinds = {"embeddings": (np.float32, "float32"), "failures/row": (np.int64, "int64")}
    kind, called = kinds.get(name, (np.bytes_, "fixed-length bytes"))
    if dataset.dtype.kind != "S" if kind is np.bytes_ else dataset.dtype != kind:
        raise ValueError(f"{name} are {dataset.dtype}, not {called}")
    offset = dataset.id.get_offset() or 0
    # Undefined for no rows, and for any layout but the contiguous one; HDF5 then adds the seal's size to -1.
    if dataset.chunks is not None or (offset < SEAL_BYTES and dataset.size):
        raise ValueError(f"{name} is not contiguous")
    dimensions = 2 if name == "embeddings" else 1
    if dataset.ndim != dimensions:
        raise ValueError(f"{name} has the shape {dataset.shape}")
    row_bytes = dataset.dtype.itemsize * (dataset.shape[1] if dimensions == 2 else 1)
    return DatasetSpan(offset if dataset.size else 0, dataset.shape[0], row_bytes, str(dataset.attrs[DIGEST]))


def read_provenance(file: h5py.File) -> Provenance:
    """Return what made an open chunk file or result. Raises KeyError or ValueError when it does not say."""
    schema = int(file.attrs["schema_version"])
    if schema != SCHEMA_VERSION:
        raise ValueError(f"schema version {schema}, this program reads {SCHEMA_VERSION}")
    values = {name: file.attrs[name] for name in Provenance.__dataclass_fields__}
    provenance = Provenance(
        **{name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    )
    # HDF5 keeps no checksum of texts: a wrong byte must not look like a run made with other settings.
    if str(file.attrs["fingerprint"]) != provenance.fingerprint:
        raise ValueError("the fingerprint is not that of the provenance beside it")
    return provenance


def run_attributes(provenance: Provenance) -> dict[str, Any]:
    """Return the attributes that chunk files and the result share."""
    return asdict(provenance) | {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": provenance.fingerprint,
        "program_version": program_version(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def sha256(data: Rows) -> str:
    """Return the hexadecimal SHA-256 of the rows' bytes in C order."""
    digest = hashlib.sha256()
    for piece in _pieces(data):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(data: Rows) -> Iterator[memoryview]:
    """Yield the rows' bytes in C order, some rows at a time."""
    for _, rows in _slices(data):
        yield memoryview(np.ascontiguousarray(rows).view(np.uint8).data if rows.size else b"")


def _slices(data: Rows) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, rows), some rows at a time."""
    at_once = max(1, SLICE_BYTES // max(1, data.dtype.itemsize * math.prod(data.shape[1:])))
    for start in range(0, data.shape[0], at_once):
        yield start, data[start : start + at_once]


def to_bytes_column(texts: Sequence[str]) -> NDArray[np.bytes_]:
    """Return the texts as fixed-length UTF-8, as wide as the widest, at least 1 byte."""
    encoded = [text.encode("utf-8", "backslashreplace") for text in texts]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=0) or 1}")
