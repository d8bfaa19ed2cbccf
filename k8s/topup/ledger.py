"""The chunks that have images to fetch again, by the ledger of a finished run."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from common.errors import ChunkInvalid
from common.format.failures_csv import COLUMNS
from common.run.keys import CHUNKS_PREFIX, FAILURES_KEY, chunk_index
from common.run.state import find_finished

if TYPE_CHECKING:
    from collections.abc import Collection

    from common.store.contract import Store


def find_chunks(store: Store, reasons: Collection[str]) -> frozenset[int] | None:
    """Return the chunks with failed images for one of these reasons, None while the run is not finished.

    A chunk that has a file beside the finished result was topped up and not merged since: it is among them. Raises
    ChunkInvalid when the ledger cannot be read.
    """
    if find_finished(store) is None or (ledger := store.stat(FAILURES_KEY)) is None:
        return None
    unmerged = {chunk_index(stat.key) for stat in store.list(CHUNKS_PREFIX)} - {None}
    with store.open(FAILURES_KEY, ledger.size) as opened:
        rows = csv.DictReader(io.TextIOWrapper(opened, "utf-8", newline=""))
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise ChunkInvalid(f"{store.location(FAILURES_KEY)} is not a ledger: its columns are {rows.fieldnames}")
        try:
            listed = {int(row["chunk"]) for row in rows if row["reason"] in reasons}
        except (ValueError, csv.Error, UnicodeError) as error:
            raise ChunkInvalid(f"{store.location(FAILURES_KEY)} cannot be read: {error}") from error
    return frozenset(listed | {chunk for chunk in unmerged if chunk is not None})
