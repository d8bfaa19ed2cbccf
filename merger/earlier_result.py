"""The result of an earlier merge as a source of rows.

A merge after a top-up takes the rows of all chunks from there that have no chunk file.

On S3 a result is verified only after it has replaced the earlier one. So the store itself first copies the earlier
result to EARLIER_RESULT_KEY, and the merge takes the rows from this copy. A merge that follows a killed one decides
where the rows are:

    the run is finished        in its result; an older copy may be of an earlier top-up, so a new one is made
    the run is not finished    in the copy. The result may be a new one that nobody has verified. But where it has other
                               rows for a chunk that has no chunk file, the copy is of an earlier top-up: then the rows
                               are in the result, and all of them are compared with their digests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.errors import ChunkInvalid
from common.format.chunk_file import ChunkHeader
from common.format.merged_chunks import read_contents
from common.format.result_file import read_result
from common.format.sealed_file import DatasetSpan
from common.run.keys import EARLIER_RESULT_KEY
from common.run.summary import read_summary

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from common.format.merged_chunks import MergedChunk, ResultContents
    from common.format.provenance import Provenance
    from common.format.result_file import ResultHeader
    from common.run.state import FinishedRun
    from common.store.contract import ObjectStat, Store


class EarlierResult(NamedTuple):
    stat: ObjectStat
    """The object with the rows: the result itself, or the copy of it."""
    header: ResultHeader
    contents: ResultContents
    embedded_by: Sequence[str]
    """The versions of the program that computed its chunks."""
    is_verified: bool = True
    """Whether a merge has verified it. If not, every row that comes from it must be compared with its digest."""

    @property
    def provenance(self) -> Provenance:
        return self.header.provenance

    @property
    def chunks(self) -> Mapping[int, MergedChunk]:
        """What it holds of each chunk, by the chunk's index."""
        return {chunk.index: chunk for chunk in self.contents.chunks}

    def headers(self) -> dict[int, ChunkHeader]:
        """Return a header for each chunk, as if it were a chunk file. The spans lie in the result.

        The URLs and ids of a span have the width of the chunk file; in the result they lie `row_pitch` bytes apart.
        """
        columns = self.contents.columns
        headers, row = {}, 0
        for chunk in self.contents.chunks:
            digests = {
                "urls": (chunk.url_bytes, chunk.urls_sha256),
                "ids": (chunk.id_bytes, chunk.ids_sha256),
                "embeddings": (columns["embeddings"].row_bytes, chunk.embeddings_sha256),
            }
            spans = {
                name: DatasetSpan(
                    columns[name].offset + row * columns[name].row_bytes, chunk.embedded, width, digest.hex()
                )
                for name, (width, digest) in digests.items()
                if width and name in columns
            }
            headers[chunk.index] = ChunkHeader(
                index=chunk.index,
                requested=chunk.requested,
                embedded=chunk.embedded,
                failed=chunk.failed,
                dimensions=columns["embeddings"].row_bytes // 4,
                provenance=self.provenance,
                fingerprint=self.provenance.fingerprint,
                program_version="",
                created_at=self.header.created_at,
                spans=spans,
            )
            row += chunk.embedded
        return headers

    def row_pitch(self) -> dict[str, int]:
        """Return the distance in bytes between the beginnings of two rows, for each column."""
        return {name: column.row_bytes for name, column in self.contents.columns.items()}


def read_earlier_result(store: Store, stat: ObjectStat | None) -> EarlierResult | None:
    """Return the result in this object, None where there is none, where it is damaged, or where it has no table."""
    if stat is None:
        return None
    name = store.location(stat.key)
    try:
        with store.open(stat.key, stat.size) as file:
            header, contents = read_result(file, name=name), read_contents(file, name=name)
    except ChunkInvalid:
        return None
    return None if contents is None else EarlierResult(stat, header, contents, _embedded_by(store))


def find_earlier_result(
    store: Store, result: ObjectStat | None, finished: FinishedRun | None, *, without_file: Collection[int]
) -> EarlierResult | None:
    """Return where the rows of the chunks are that have no chunk file, None where no whole result has any of them.

    `result` is the object under RESULT_KEY, `finished` the finished run, if it is finished. See the module.
    """
    whole = read_earlier_result(store, result)
    if finished is not None:
        return whole
    if whole is not None:
        whole = whole._replace(is_verified=False)
    copy = read_earlier_result(store, store.stat(EARLIER_RESULT_KEY))
    if copy is None or whole is None:
        return copy or whole
    if whole.contents == copy.contents:
        return whole  # perhaps a copy of a result that was not verified either
    of_result, of_copy = whole.chunks, copy.chunks
    agree = all(of_result.get(index) == of_copy.get(index) for index in without_file)
    return copy if agree else whole


def _embedded_by(store: Store) -> Sequence[str]:
    try:
        summary = read_summary(store)
    except ChunkInvalid:
        return ()
    return () if summary is None else summary.embedded_by
