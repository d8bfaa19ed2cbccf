"""hnswlib's index: its file, its size in memory, and how it is loaded. hnswlib itself is imported here alone.

An index is an HNSW graph: a vector is joined to its near neighbours, on several levels, and a search walks along these
edges (Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
World graphs", https://arxiv.org/abs/1603.09320). M is the number of neighbours of a vector on an upper level; the
lowest level has twice as many. `ef` is the number of candidates of a search.
"""

from __future__ import annotations

import importlib.util
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import ConfigError, ResourceExhausted

if TYPE_CHECKING:
    from pathlib import Path

SPACE = "cosine"
"""The measure of distance. hnswlib stores each vector with norm 1, and its distance is 1 minus the cosine."""

UNSET_EF = 10
"""The value of `ef` of an index that was loaded and not told another one, from hnswlib's `hnswalg.h`."""

_HEADER = struct.Struct("<6QiI3QdQ")
"""The beginning of the file (`saveIndex` in hnswlib's `hnswalg.h`)."""

_BESIDE_BYTES = 110
"""Bytes of memory that hnswlib uses for a vector beside the record of the lowest level: a mutex (40), a pointer (8) and
a number (4) for its level, its entry in the table of labels (48), and the upper levels' edges (5 with M=16)."""

_VISITED_BYTES = 2
"""Bytes of memory that each thread uses for a vector, to remember which vectors a search has seen."""

INSTALL = (
    "install the embedder with its extra `index` (uv tool install '.[worker,index]' in the folder of its source code), "
    "or hnswlib beside it (pip install hnswlib in its environment); it needs a C++ compiler"
)


class IndexLibraryMissing(ConfigError):
    """hnswlib is not installed."""


class IndexDamaged(Exception):
    """A file is not the index of so many vectors."""


class IndexHeader(NamedTuple):
    """What the file says about itself."""

    offset_level0: int
    max_elements: int
    row_count: int
    element_bytes: int
    label_offset: int
    data_offset: int
    max_level: int
    entry_point: int
    max_m: int
    max_m0: int
    m: int
    mult: float
    ef_construction: int


def has_hnswlib() -> bool:
    """Return whether hnswlib is installed. Imports nothing."""
    return importlib.util.find_spec("hnswlib") is not None


def check_hnswlib(command: str) -> None:
    """Raise IndexLibraryMissing unless hnswlib is installed. `command` is what needs it."""
    if not has_hnswlib():
        raise IndexLibraryMissing(f"{command} needs hnswlib, which is not installed; {INSTALL}")


def element_bytes(dimensions: int, *, m: int) -> int:
    """Return the bytes of a vector's record on the lowest level: its edges, the vector and its label."""
    return 4 + 4 * 2 * m + 4 * dimensions + 8


def file_bytes(rows: int, dimensions: int, *, m: int) -> int:
    """Return the size of the file of such an index, to within 1 %."""
    upper_levels = (4 + 4 * m) / (m - 1)
    return _HEADER.size + round(rows * (element_bytes(dimensions, m=m) + 4 + upper_levels))


def memory_bytes(rows: int, dimensions: int, *, m: int, threads: int) -> int:
    """Return the bytes of memory that such an index uses while `threads` threads build or search it."""
    return rows * (element_bytes(dimensions, m=m) + _BESIDE_BYTES + _VISITED_BYTES * threads)


def new_index(rows: int, dimensions: int, *, m: int, ef_construction: int) -> Any:  # noqa: ANN401 - hnswlib has no types
    """Return an empty hnswlib.Index with room for `rows` vectors. Raises ResourceExhausted without enough memory."""
    import hnswlib  # noqa: PLC0415 - an extra

    index = hnswlib.Index(space=SPACE, dim=dimensions)
    try:
        index.init_index(max_elements=rows, M=m, ef_construction=ef_construction)
    except RuntimeError as error:
        raise ResourceExhausted(
            f"an index of {rows} vectors does not fit in memory: {error}; raise its limit"
        ) from error
    return index


def load_index(path: Path, *, rows: int, dimensions: int) -> Any:  # noqa: ANN401 - hnswlib has no types
    """Return the hnswlib.Index in this file, as a search backend loads it.

    Raises IndexDamaged unless the file holds an index of `rows` vectors. hnswlib believes the file's bytes, so compare
    its digest first where it may be damaged.
    """
    check_header(path, rows=rows, dimensions=dimensions)
    import hnswlib  # noqa: PLC0415 - an extra

    index = hnswlib.Index(space=SPACE, dim=dimensions)
    try:
        index.load_index(str(path))
    except RuntimeError as error:
        raise IndexDamaged(f"{path} cannot be loaded: {error}") from error
    if index.get_current_count() != rows:
        raise IndexDamaged(f"{path} holds {index.get_current_count()} vectors of {rows}")
    return index


def check_header(path: Path, *, rows: int, dimensions: int) -> IndexHeader:
    """Return the header of an index. Raises IndexDamaged unless it is that of `rows` vectors of this size."""
    try:
        with path.open("rb") as file:
            data = file.read(_HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise IndexDamaged(f"{path} cannot be read: {error.strerror}") from error
    if len(data) < _HEADER.size:
        raise IndexDamaged(f"{path} has {len(data)} bytes, too few for an index")
    header = IndexHeader(*_HEADER.unpack(data))
    links = 4 + 4 * header.max_m0
    expected = header._replace(
        offset_level0=0,
        max_elements=rows,
        row_count=rows,
        max_m0=2 * header.m,
        element_bytes=links + 4 * dimensions + 8,
        label_offset=links + 4 * dimensions,
        data_offset=links,
    )
    if header != expected or not 0 <= header.entry_point < rows:
        raise IndexDamaged(f"{path} is not an index of {rows} vectors with {dimensions} numbers each")
    if size < _HEADER.size + rows * header.element_bytes:
        raise IndexDamaged(f"{path} has {size} bytes, too few for an index of {rows} vectors")
    return header
