"""Top-ups whose merges are killed before any of their writes, and top-ups and merges at the same time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from common.run.keys import RESULT_KEY, chunk_key
from merger.merge import merge
from merger.outcome import AlreadyFinished, Merged
from tests.merger.dying import FAILED, KILLED, random_pauses, start_merge, wait_for
from tests.merger.runs import put_chunk, read_result, settings_for
from tests.merger.top_ups import FINISHED, content, manifest, merged_at_once, objects, put

if TYPE_CHECKING:
    from pathlib import Path

    from common.format.chunk_file import Chunk
    from common.store.contract import Store
    from tests.merger.top_ups import Rows

COUNTS = (30, 2, 25, 40)
GONE = {0: (3,), 3: (0, 39)}

MANY_WRITES = 15
"""A merge after a top-up sends more writes than this."""


class Run:
    """A run of which more and more rows are embedded, and what its readers may see meanwhile."""

    def __init__(self, store: Store, counts: tuple[int, ...], drawn: random.Random) -> None:
        self.store, self.drawn = store, drawn
        self.rows = manifest(counts, url_bytes=drawn.choice([0, 150]))
        self.left = {each.index: set(drawn.sample(range(each.count), each.count // 3)) for each in self.rows}
        self.settings = settings_for(store, len(counts), verify_rows="8")
        self.vectors = {
            url: vector.tobytes()
            for each in self.rows
            for url, vector in zip(each.chunk().urls, each.chunk().embeddings[:], strict=True)
        }
        put(store, [self.chunk(each) for each in self.rows])
        merge(store, self.settings)
        self.seen = self.read()

    def chunk(self, rows: Rows) -> Chunk:
        return rows.chunk(self.left[rows.index], gone=GONE.get(rows.index, ()))

    def top_up(self) -> None:
        """Embed some more rows of a chunk."""
        rows = self.drawn.choice([each for each in self.rows if self.left[each.index]] or self.rows)
        left = self.left[rows.index]
        left -= set(self.drawn.sample(sorted(left), min(len(left), self.drawn.randint(1, 4))))
        put_chunk(self.store, self.chunk(rows))

    def look_once_more(self) -> None:
        """Do what the workers of top-ups do after they have stored a chunk: a merge looks whether a chunk file is still
        what it merged, and then deletes it, in two steps.
        """
        table = {chunk.index: chunk.embedded for chunk in content(self.store).chunks}
        for rows in self.rows:
            chunk = self.chunk(rows)
            if self.store.stat(chunk_key(rows.index)) is None and table[rows.index] != len(chunk.urls):
                put_chunk(self.store, chunk)

    def read(self) -> set[str]:
        """Return the URLs of the result, after a check that it is whole and that each URL has its own vector."""
        assert self.store.stat(RESULT_KEY) is not None
        found = read_result(self.store)
        urls = [url.decode() for url in found.urls]
        assert [self.vectors[url] for url in urls] == [vector.tobytes() for vector in found.embeddings]
        return set(urls)

    def check_readers(self) -> None:
        seen = self.read()
        assert seen >= self.seen, "rows are lost"
        self.seen = seen

    def finish(self, tmp_path: Path) -> None:
        merge(self.store, self.settings)
        self.check_readers()
        assert content(self.store) == merged_at_once([self.chunk(each) for each in self.rows], tmp_path)
        assert objects(self.store) == FINISHED


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_a_merge_that_is_killed_at_any_request_is_completed_by_the_next(
    store: Store, tmp_path: Path, first: int
) -> None:
    drawn = random.Random(first)
    run = Run(store, COUNTS, drawn)

    def merge_dying(writes: int) -> int:
        code = wait_for(start_merge(store.uri, run.settings, writes=writes))
        run.check_readers()
        return code

    for writes in range(first, 100, 2):
        run.top_up()
        code = merge_dying(writes)
        if code == 0:
            break
        assert code == KILLED
        if drawn.random() < 0.3:
            run.top_up()
        if drawn.random() < 0.5:
            assert merge_dying(drawn.randint(1, 20)) in {0, KILLED}
        assert isinstance(merge(store, run.settings), Merged | AlreadyFinished)
        run.check_readers()
    assert writes > MANY_WRITES
    run.finish(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_merges_and_top_ups_at_the_same_time_lose_no_row(store: Store, tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    run = Run(store, COUNTS, drawn)
    run.top_up()
    pause = random_pauses(0.02, seed)
    merges = [
        start_merge(store.uri, run.settings, pause=random_pauses(0.02, seed + number), writes=drawn.choice([0, 10]))
        for number in range(2)
    ]
    for _ in range(3):
        for _ in range(10):
            pause()
        run.check_readers()
        run.top_up()
    assert {wait_for(process) for process in merges} <= {0, KILLED, FAILED}
    run.check_readers()
    run.look_once_more()
    run.finish(tmp_path)
