"""What the page can ask about a result: its rows, what is near a row, a text or an image, its failures, its map."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from common.errors import DataError, EmbedderError, TemporaryError
from common.format.reasons import REASON_HELP, Reason
from common.run.keys import RESULT_KEY
from embedder.explore.lane import Lane
from embedder.explore.ledger import ledger_page
from embedder.explore.map import EmbeddingMap
from embedder.explore.pictures import Pictures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from embedder.explore.ledger import LedgerPage
    from embedder.explore.queries import Queries
    from results.nearest import NearestRows, Neighbour
    from results.result import Result

MOST_FOUND = 1_000
"""Number of rows that the pages of one search reach. Whoever wants more is better served by `embedder search`."""

MOST_ROWS = 100
"""Largest number of rows of one page."""

_FIRST_FOUND = 200
"""Number of rows that a search finds at once: the first pages take one look at the vectors."""

_SEARCHES_AT_ONCE = 2
_READS_AT_ONCE = 8
_KEPT_SEARCHES = 32
_KEPT_VECTORS = 256

LOOK_SECONDS = 5.0
"""How often the store is asked whether the result is still the same, in seconds."""

Kept = TypeVar("Kept")


class AskedWrongly(DataError):
    """The page asks for what there is not."""


class ResultReplaced(TemporaryError):
    """A merge has made another result since this program began."""


@dataclass(frozen=True)
class Row:
    row: int
    url: str
    id: str | None
    score: float | None = None
    """The cosine similarity with the query, None where nothing was asked."""


@dataclass(frozen=True)
class RowPage:
    rows: list[Row]
    start: int
    total: int
    """Number of rows that can be paged through."""


class _Recent(Generic[Kept]):
    """The values that were used last."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._values: OrderedDict[str, Kept] = OrderedDict()

    def get(self, key: str) -> Kept | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: str, value: Kept) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._count:
            self._values.popitem(last=False)


class Explorer:
    """Answers the page's questions, in one event loop. Raises EmbedderErrors whose messages the page shows."""

    def __init__(
        self,
        result: Result,
        queries: Queries,
        nearest: Future[NearestRows],
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """`look_seconds` is how often the store is asked whether the result is still the same."""
        self._result, self._queries, self._nearest = result, queries, nearest
        self._reads, self._searches = Lane("read", width=_READS_AT_ONCE), Lane("search", width=_SEARCHES_AT_ONCE)
        self._pictures = Pictures(queries, self._url)
        self._map = EmbeddingMap(result)
        self._vectors: _Recent[NDArray[np.float32]] = _Recent(_KEPT_VECTORS)
        self._found: _Recent[Sequence[Neighbour]] = _Recent(_KEPT_SEARCHES)
        self._look_seconds, self._looked_at = look_seconds, time.monotonic()

    @property
    def pictures(self) -> Pictures:
        return self._pictures

    def about(self) -> dict[str, object]:
        """Return what the head of the page says."""
        result, summary = self._result, self._result.summary
        state, message = _state_of(self._queries.ready)
        search_state, search_message = _state_of(self._nearest)
        return {
            "run": result.store.uri,
            "rows": result.row_count,
            "requested": summary.rows_requested,
            "failed": summary.rows_failed,
            "dimensions": result.dimensions,
            "model": result.provenance.model,
            "revision": result.provenance.model_revision,
            "created_at": summary.created_at,
            "is_untrained": result.provenance.model == "untrained",
            "search": self._nearest.result().name if search_state == "ready" else "",
            "search_state": search_state,
            "search_message": search_message,
            "text_state": state,
            "text_message": message,
            "failures": [
                {"reason": reason, "count": count, "help": _help(reason)}
                for reason, count in sorted(summary.failures_by_reason.items(), key=lambda each: -each[1])
            ],
        }

    async def rows(self, *, start: int, count: int) -> RowPage:
        """Return a page of the rows in their order."""
        self._check_page(start, count, of=self._result.row_count)
        await self._check_current()
        stop = min(start + count, self._result.row_count)
        urls = await self._reads.run(partial(self._result.urls, start, stop))
        ids = (
            await self._reads.run(partial(self._result.ids, start, stop))
            if self._result.has_ids
            else [None] * len(urls)
        )
        rows = [Row(start + number, url, each) for number, (url, each) in enumerate(zip(urls, ids, strict=True))]
        return RowPage(rows, start, self._result.row_count)

    async def near_row(self, row: int, *, start: int, count: int) -> RowPage:
        """Return a page of what is nearest to a row; the row itself is not among them."""
        self._check_row(row)
        key = f"row:{row}"
        vector = self._vectors.get(key)
        if vector is None:
            vector = (await self._reads.run(partial(self._result.vectors, row, row + 1)))[0]
            self._vectors.put(key, vector)
        return await self._near(key, vector, start=start, count=count, without=row)

    async def near_text(self, text: str, *, start: int, count: int) -> RowPage:
        """Return a page of what is nearest to a text."""
        text = text.strip()
        if not text:
            raise AskedWrongly("the search has no text; write what the pictures should show")
        key = f"text:{text}"
        vector = self._vectors.get(key)
        if vector is None:
            vector = await asyncio.wrap_future(self._queries.text(text))
            self._vectors.put(key, vector)
        return await self._near(key, vector, start=start, count=count)

    async def take_image(self, data: bytes) -> str:
        """Return the name under which an image file can be searched for."""
        if not data:
            raise AskedWrongly("the file is empty; choose a picture")
        name = hashlib.sha256(data).hexdigest()
        if self._vectors.get(f"image:{name}") is None:
            self._vectors.put(f"image:{name}", await asyncio.wrap_future(self._queries.image(data)))
        return name

    async def near_image(self, name: str, *, start: int, count: int) -> RowPage:
        """Return a page of what is nearest to an image that `take_image` has named."""
        vector = self._vectors.get(f"image:{name}")
        if vector is None:
            raise AskedWrongly("this program no longer knows the picture; give it again")
        return await self._near(f"image:{name}", vector, start=start, count=count)

    async def failures(self, *, offset: int, reason: str, count: int) -> LedgerPage:
        """Return a page of the ledger."""
        self._check_page(offset, count, of=1 << 62)
        await self._check_current()
        return await self._reads.run(
            partial(ledger_page, self._result.store, offset=offset, reason=reason, count=count)
        )

    async def row(self, row: int) -> Row:
        """Return a row's texts."""
        self._check_row(row)
        await self._check_current()
        (found,) = await self._described([(row, None)])
        return found

    def map_since(self, version: int) -> dict[str, object]:
        """Return how far the map is, and its points unless `version` has them."""
        state = self._map.state()
        answer: dict[str, object] = {
            "state": state.state,
            "step": state.step,
            "steps": state.steps,
            "message": state.message,
            "version": state.version,
            "of": self._result.row_count,
        }
        if state.version != version:
            answer |= {"rows": state.rows, "x": state.x, "y": state.y}
        return answer

    async def _near(
        self, key: str, vector: NDArray[np.float32], *, start: int, count: int, without: int | None = None
    ) -> RowPage:
        others = self._result.row_count - (without is not None)
        self._check_page(start, count, of=MOST_FOUND)
        await self._check_current()
        wanted = min(max(start + count, _FIRST_FOUND), MOST_FOUND, others)
        found = self._found.get(key)
        if found is None or len(found) < wanted:
            nearest = await asyncio.shield(asyncio.wrap_future(self._nearest))
            more = wanted + (without is not None)
            all_found = await self._searches.run(lambda: nearest.nearest(np.ascontiguousarray(vector), more))
            found = [each for each in all_found if each.row != without][:wanted]
            self._found.put(key, found)
        page = [(each.row, each.score) for each in found[start : start + count]]
        return RowPage(await self._described(page), start, min(others, MOST_FOUND))

    async def _described(self, rows: Sequence[tuple[int, float | None]]) -> list[Row]:
        urls = await self._reads.run_all([partial(self._result.urls, row, row + 1) for row, _ in rows])
        ids: Sequence[Sequence[str | None]] = [[None]] * len(rows)
        if self._result.has_ids:
            ids = await self._reads.run_all([partial(self._result.ids, row, row + 1) for row, _ in rows])
        return [
            Row(row, url[0], each[0], None if score is None else round(score, 6))
            for (row, score), url, each in zip(rows, urls, ids, strict=True)
        ]

    async def _url(self, row: int) -> str:
        await self._check_current()
        urls: list[str] = await self._reads.run(partial(self._result.urls, row, row + 1))
        return urls[0]

    def has_row(self, row: int) -> bool:
        return 0 <= row < self._result.row_count

    def _check_row(self, row: int) -> None:
        if not self.has_row(row):
            raise AskedWrongly(f"there is no row {row}; the result has {self._result.row_count} rows, from 0")

    def _check_page(self, start: int, count: int, *, of: int) -> None:
        if not (0 <= start <= of and 1 <= count <= MOST_ROWS):
            raise AskedWrongly(f"a page begins at 0 to {of} and has 1 to {MOST_ROWS} rows, not {count} from {start} on")

    async def _check_current(self) -> None:
        """Raise ResultReplaced when the store holds another result: its rows have other numbers."""
        if time.monotonic() - self._looked_at < self._look_seconds:
            return
        seen = self._result.finished.result
        if await self._reads.run(lambda: self._result.store.stat(RESULT_KEY)) != seen:
            raise ResultReplaced(
                f"{self._result.store.location(RESULT_KEY)} is another result than this page has begun with; end "
                "`embedder explore` and start it again"
            )
        self._looked_at = time.monotonic()


def _state_of(future: Future[Any]) -> tuple[str, str]:
    """Return `loading`, `ready` or `failed`, and why it failed."""
    if not future.done():
        return "loading", ""
    error = future.exception()
    if error is None:
        return "ready", ""
    return "failed", str(error) if isinstance(error, EmbedderError) else f"a bug in the embedder: {error!r}"


def _help(reason: str) -> str:
    return REASON_HELP[Reason(reason)] if reason in set(Reason) else "a reason of another version"
