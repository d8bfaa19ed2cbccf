"""Runs whose rows fail at first and are topped up later: chunks, and what an undisturbed run would have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.format.chunk_file import Chunk, Failure
from common.format.merged_chunks import read_merged_chunks
from common.format.reasons import Reason
from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from merger.merge import merge
from tests.merger.runs import provenance, put_chunk, read_result, settings_for

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from common.format.merged_chunks import MergedChunk
    from common.store.contract import Store

DETAILS = ("404", 'a "quoted", detail', "a line\nand another", "a lone\rreturn", "=1+1", "é, ü", "")


@dataclass(frozen=True)
class Rows:
    """A chunk's share of a manifest."""

    index: int
    count: int
    chunk_count: int
    with_ids: bool = True
    dimensions: int = 512
    url_bytes: int = 0
    """The width of the URL of the last row."""

    def url(self, row: int) -> str:
        url = f"https://photos.example/{self.index}/{row}/é"
        return url.ljust(self.url_bytes, "x") if row == self.count - 1 else url

    def chunk(
        self, failing: Collection[int] = (), *, gone: Collection[int] = (), reason: Reason = Reason.TIMEOUT
    ) -> Chunk:
        """Return the chunk of a worker for which the rows `failing` failed; the rows `gone` fail always."""
        generator = np.random.default_rng([self.index, self.count])
        vectors = generator.standard_normal((self.count, self.dimensions), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        failed = sorted({*failing, *gone})
        embedded = [row for row in range(self.count) if row not in failed]
        return Chunk(
            index=self.index,
            urls=[self.url(row) for row in embedded],
            ids=[f"{self.index}-{row}" for row in embedded] if self.with_ids else None,
            embeddings=vectors[embedded],
            failures=[
                Failure(
                    row,
                    self.url(row),
                    Reason.NOT_FOUND if row in gone else reason,
                    DETAILS[row % len(DETAILS)],
                    f"{self.index}-{row}" if self.with_ids else "",
                )
                for row in failed
            ],
            provenance=provenance(self.chunk_count),
        )


def manifest(counts: Sequence[int], **options: Any) -> list[Rows]:  # noqa: ANN401 - any field of Rows
    return [Rows(index, count, len(counts), **options) for index, count in enumerate(counts)]


def put(store: Store, chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        put_chunk(store, chunk)


class Content(NamedTuple):
    """What a run holds, apart from times and versions."""

    urls: tuple[str, bytes]
    ids: tuple[str, bytes] | None
    embeddings: bytes
    chunks: Sequence[MergedChunk]
    ledger: bytes


def content(store: Store) -> Content:
    found = read_result(store)
    stat = store.stat(RESULT_KEY)
    assert stat is not None
    with store.open(RESULT_KEY, stat.size) as file:
        chunks = read_merged_chunks(file, name="the result")
    assert chunks is not None
    return Content(
        (found.urls.dtype.str, found.urls.tobytes()),
        None if found.ids is None else (found.ids.dtype.str, found.ids.tobytes()),
        found.embeddings.tobytes(),
        chunks,
        store.read(FAILURES_KEY),
    )


def merged_at_once(chunks: Sequence[Chunk], folder: Path) -> Content:
    """Return what a run has in which the workers wrote these chunks at once."""
    store = open_store(str(folder / f"undisturbed-{os.urandom(4).hex()}"))
    put(store, chunks)
    merge(store, settings_for(store, len(chunks)))
    return content(store)


def objects(store: Store) -> list[str]:
    return sorted(found.key for found in store.list(""))


FINISHED = sorted([RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY])


def with_files(*indexes: int) -> list[str]:
    return sorted([*FINISHED, *map(chunk_key, indexes)])
