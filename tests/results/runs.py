"""Finished runs as a merge leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from merger.merge import merge
from tests.merger.runs import put_run, settings_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.format.chunk_file import Chunk
    from common.store.contract import Store


def merge_run(store: Store, sizes: Sequence[int] = (30, 20), **options: Any) -> list[Chunk]:  # noqa: ANN401 - of make_chunk
    """Make a finished run of chunks with so many random rows in the store, and return the chunks."""
    chunks = put_run(store, sizes, **options)
    merge(store, settings_for(store, len(sizes)))
    return chunks
