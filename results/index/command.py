"""The index program from its environment to its last word."""

from __future__ import annotations

from typing import assert_never

from common.logs import configure_logs
from common.process.program import Finished
from common.run.keys import INDEX_KEY
from common.settings import read_settings
from common.store import open_store
from results.hnsw import check_hnswlib
from results.index.job import AlreadyBuilt, Built, NothingToIndex, make_index
from results.index.settings import IndexSettings


def run_index() -> Finished:
    settings = read_settings(IndexSettings)
    configure_logs(settings.log_level)
    check_hnswlib("the index program")
    store = open_store(settings.run_uri)
    return Finished(sentence(make_index(store, settings), location=store.location(INDEX_KEY)))


def sentence(outcome: Built | AlreadyBuilt | NothingToIndex, *, location: str) -> str:
    """Return what the program says about its outcome. `location` is the full name of the index."""
    match outcome:
        case Built(index):
            return (
                f"{location} has {index.rows} vectors in {index.bytes} bytes and finds {index.recall_at_10:.3f} of the "
                f"10 nearest rows with ef={index.ef_search}; it took {index.seconds:.0f} s"
            )
        case AlreadyBuilt(index):
            return (
                f"this result has its index: {location} has {index.rows} vectors and finds {index.recall_at_10:.3f} of "
                f"the 10 nearest rows with ef={index.ef_search}"
            )
        case NothingToIndex():
            return f"the result has no rows, so {location} is not made"
        case _:
            assert_never(outcome)
