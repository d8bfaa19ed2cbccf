"""Opens the result of a run that people name on the command line, and says why it cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import RunUnfinished
from common.format.result_file import read_result
from common.run.keys import RESULT_KEY
from common.store import open_store
from results.result import open_result

if TYPE_CHECKING:
    from results.result import Result


def open_run(run_uri: str) -> Result:
    """Return the result of the run at this place, a folder or s3://bucket/prefix.

    Raises RunUnfinished when the run is not finished, ChunkInvalid when its result is damaged or of another version,
    and the errors of the store.
    """
    # People also name the file itself.
    store = open_store(run_uri.removesuffix(RESULT_KEY) if run_uri.endswith(f"/{RESULT_KEY}") else run_uri)
    try:
        return open_result(store)
    except RunUnfinished:
        # A result that cannot be read counts as unfinished, since a merge replaces it. People want to know why.
        stat = store.stat(RESULT_KEY)
        if stat is not None:
            with store.open(RESULT_KEY, stat.size) as file:
                read_result(file, name=store.location(RESULT_KEY))
        raise
