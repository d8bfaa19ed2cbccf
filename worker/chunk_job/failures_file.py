"""The list of the failed images that a chunk leaves in the store when it fails: `chunks/failures_<index>.csv`.

It is written whole or not at all. A later attempt that fails replaces it, and one that succeeds removes it. Nothing
depends on it, so a store that refuses it changes no exit code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import EmbedderError
from common.format.failures_csv import new_failures_csv
from common.logs import FAILURES_LISTED, log
from common.process.resources import temporary_folder
from common.run.keys import chunk_failures_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.format.chunk_file import Failure
    from common.store.contract import Store


class FailuresFile:
    """The failed images of chunk `index` of the run in `store`."""

    def __init__(self, store: Store, index: int) -> None:
        self._store, self._index = store, index
        self._key = chunk_failures_key(index)

    def write(self, failures: Sequence[Failure]) -> str | None:
        """Write the list and return its full name, None where it cannot be written."""
        location = self._store.location(self._key)
        try:
            with temporary_folder("failures") as folder:
                path = folder / "failures.csv"
                with new_failures_csv(path) as write:
                    for each in failures:
                        write((str(self._index), str(each.row), each.id, each.url, each.reason, each.detail))
                self._store.put_file(self._key, path)
        except (EmbedderError, OSError) as error:
            log.warning("failures_not_listed", file=location, error=str(error))
            return None
        log.error(FAILURES_LISTED, images=len(failures), file=location)
        return location

    def remove(self) -> None:
        """Remove the list that an earlier attempt has left, because the chunk is in the store."""
        try:
            if self._store.stat(self._key) is not None:
                self._store.delete([self._key])
        except EmbedderError as error:  # the merge removes what is left
            log.warning("failures_stay", file=self._store.location(self._key), error=str(error))
