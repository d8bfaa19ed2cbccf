"""Reads chunk 450 of 900 of a manifest with nine million rows over HTTP, as CSV and as Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from benchmarks.processes import in_turn, median, run
from benchmarks.ratio import Ratio
from tests.manifest_server import manifest_server

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.processes import Cost
    from tests.manifest_server import ManifestServer

INDEX, COUNT = 450, 900

ROW_GROUP_ROWS = 100_000
"""Number of rows in a row group. A chunk lies in one or two groups, and must read at least their columns."""

READ_COLUMNS = ("ImageID", "Subset", "OriginalURL", "Thumbnail300KURL", "Rotation")


def scale(folder: Path, *, rows: int, rounds: int) -> list[Ratio]:
    """Find and parse one chunk over HTTP, each time in a new process. The server counts the bytes that it sends."""
    needed_bytes = _make(folder, rows)
    ratios = []
    with manifest_server() as server:
        for name, least in needed_bytes.items():
            url = server.publish(name, folder / name)
            costs = in_turn({"chunk": lambda url=url: _read(server, url)}, rounds)["chunk"]  # type: ignore[misc]
            seconds = median([float(cost.output.split()[-1]) for cost, _ in costs])
            peak = median([cost.peak_megabytes for cost, _ in costs])
            read = median([sent for _, sent in costs])
            detail = f"{rows} rows, {(folder / name).stat().st_size / 1e6:.0f} MB, the chunk {least / 1e6:.2f} MB"
            ratios += [
                Ratio(f"{name}, seconds to find and parse", seconds, "<= 2", detail),
                Ratio(f"{name}, MB resident", peak, "<= 200", "the whole process"),
                Ratio(f"{name}, bytes read over the chunk's", read / least, "<= 1.2", f"{read / 1e6:.2f} MB read"),
            ]
    return ratios


def _read(server: ManifestServer, url: str) -> tuple[Cost, int]:
    server.bytes_sent = 0
    cost = run(["benchmarks.parts", "chunk", url, str(INDEX), str(COUNT)], {})
    return cost, server.bytes_sent


def _make(folder: Path, rows: int) -> dict[str, int]:
    """Write both files, and return how many bytes of each belong to the chunk."""
    schema = _part(0).schema
    with (
        csv.CSVWriter(folder / "manifest.csv", schema) as as_csv,
        parquet.ParquetWriter(folder / "manifest.parquet", schema, compression="zstd") as as_parquet,
    ):
        for first in range(0, rows, ROW_GROUP_ROWS):
            part = _part(first)
            as_csv.write_table(part)
            as_parquet.write_table(part, row_group_size=ROW_GROUP_ROWS)
    metadata = parquet.read_metadata(folder / "manifest.parquet")
    start, stop = INDEX * rows // COUNT, (INDEX + 1) * rows // COUNT
    columns = [
        metadata.row_group(group).column(number).total_compressed_size
        for group in range(start // ROW_GROUP_ROWS, -(-stop // ROW_GROUP_ROWS))
        for number, name in enumerate(schema.names)
        if name in READ_COLUMNS
    ]
    return {"manifest.csv": (folder / "manifest.csv").stat().st_size // COUNT, "manifest.parquet": sum(columns)}


def _part(first: int) -> pa.Table:
    """Return rows with the columns of Open Images' own files.

    The values have the same widths, and the ids and names are random, so they do not compress.
    """
    random = np.random.default_rng(first)
    ids = [f"{value:016x}" for value in random.integers(0, 1 << 63, ROW_GROUP_ROWS).tolist()]
    photos = [f"{value}_{value * 7919 % (1 << 40):010x}" for value in random.integers(10**9, 10**10, len(ids)).tolist()]
    return pa.table(
        {
            "ImageID": ids,
            "Subset": ["train"] * len(ids),
            "OriginalURL": [f"https://farm{len(photo) % 9}.staticflickr.com/5310/{photo}_o.jpg" for photo in photos],
            "OriginalLandingURL": [f"https://www.flickr.com/photos/somebody/{photo[:10]}" for photo in photos],
            "License": ["https://creativecommons.org/licenses/by/2.0/"] * len(ids),
            "AuthorProfileURL": ["https://www.flickr.com/people/somebody/"] * len(ids),
            "Author": ["Somebody, with a comma"] * len(ids),
            "Title": [f"Photo {photo[-6:]}" for photo in photos],
            "OriginalSize": random.integers(10**5, 10**7, len(ids)),
            "OriginalMD5": [f"{image[::-1]}{image[:6]}==" for image in ids],
            "Thumbnail300KURL": [f"https://c1.staticflickr.com/6/5310/{photo}_z.jpg" for photo in photos],
            "Rotation": np.zeros(len(ids)),
        }
    )
