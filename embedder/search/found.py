"""The rows that a search has found, as a table for people, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from common.format.failures_csv import harmless
from common.logs import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from results.nearest import Neighbour
    from results.result import Result

REQUESTS = 8
"""Number of rows whose URLs are read at the same time."""


class Found(NamedTuple):
    """One row of the result."""

    row: int
    score: float
    """The cosine similarity with the query, -1 to 1."""
    url: str
    id: str | None
    """None where the result has no ids."""


def read_rows(result: Result, neighbours: Sequence[Neighbour]) -> list[Found]:
    """Return these rows with their URLs and ids. Nothing else is read. Raises StoreUnavailable."""

    def read(neighbour: Neighbour) -> Found:
        row = neighbour.row
        (url,) = result.urls(row, row + 1)
        row_id = result.ids(row, row + 1)[0] if result.has_ids else None
        return Found(row, neighbour.score, url, row_id)

    with ThreadPoolExecutor(REQUESTS) as requests:
        return list(requests.map(read, neighbours))


def as_table(found: Sequence[Found], *, has_ids: bool) -> RenderableType:
    """Return a table. Characters of the list that would control a terminal are escaped."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    if has_ids:
        table.add_column("id", overflow="fold")
    table.add_column("URL", overflow="fold")
    for rank, each in enumerate(found, start=1):
        ids = [Text(printable(each.id or ""))] if has_ids else []
        table.add_row(Text(str(rank)), Text(f"{each.score:.4f}"), *ids, Text(printable(each.url)))
    return table


def as_json(found: Sequence[Found], *, run: str, search: str, is_untrained: bool) -> str:
    """Return one JSON object in ASCII: where and how was searched, and the rows."""
    rows = [
        {
            "rank": rank,
            "score": round(each.score, 6),
            "row": each.row,
            **({} if each.id is None else {"id": each.id}),
            "url": each.url,
        }
        for rank, each in enumerate(found, start=1)
    ]
    return json.dumps({"run": run, "search": search, "is_untrained": is_untrained, "rows": rows})


def as_csv(found: Sequence[Found], *, has_ids: bool) -> str:
    """Return CSV with a header line. An apostrophe stands before what a spreadsheet would take for a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["rank", "score", "row", *(["id"] if has_ids else []), "url"])
    for rank, each in enumerate(found, start=1):
        ids = [harmless(each.id or "")] if has_ids else []
        writer.writerow([rank, f"{each.score:.6f}", each.row, *ids, harmless(each.url)])
    return file.getvalue()
