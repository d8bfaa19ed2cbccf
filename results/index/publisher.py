"""The index in the store: where it is made, and how it becomes the index of the run.

The index is published first, and the summary says so afterwards. A program that dies in between leaves an index that no
summary knows, which the next one replaces.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import SettingsError
from common.logs import log
from common.process.resources import temporary_folder, written_file
from common.run.keys import INDEX_KEY, RESULT_KEY
from common.run.state import find_finished
from common.run.summary import write_summary
from common.store.contract import AssemblyGone, ObjectExists
from common.store.folder import FolderStore
from results.index.upload import put_large_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.run.summary import IndexSummary
    from common.store.contract import ObjectStat, Store
    from results.result import Result


class Publisher:
    """Publishes an index of one result, and no index of a result that was replaced.

    `replacing` is the index, and `summary` the object summary.json, that were there before the result was read.
    """

    def __init__(
        self, store: Store, result: Result, *, replacing: ObjectStat | None, summary: ObjectStat | None
    ) -> None:
        self._store, self._result = store, result
        self._replacing, self._summary = replacing, summary

    @contextmanager
    def scratch_file(self, folder: str) -> Iterator[Path]:
        """Give the path of a file for the index. It is removed after the block, unless it was published."""
        if folder:
            if not Path(folder).expanduser().is_dir():
                raise SettingsError(f"EMBEDDER_INDEX_FOLDER is {folder}, which is not a folder; choose one that exists")
            with temporary_folder("index", Path(folder).expanduser()) as scratch:
                yield scratch / INDEX_KEY
        elif isinstance(self._store, FolderStore):
            with self._store.temporary(INDEX_KEY) as path:
                yield path
        else:
            with temporary_folder("index") as scratch:
                yield scratch / INDEX_KEY

    def publish(self, path: Path, index: IndexSummary) -> None:
        """Make the file the index of the run, and say so in summary.json.

        Raises ObjectExists when the result, the index or the summary were replaced meanwhile, and AssemblyGone when
        another program aborted the upload. Then nothing of this index stays.
        """
        self.check_result()
        published = self._put(path, sha256=index.sha256)
        try:
            # A merge may have replaced the result between the check and the upload.
            self.check_result()
            with_index = self._result.summary.model_copy(update={"index": index})
            write_summary(self._store, with_index, replacing=self._summary)
        except (ObjectExists, AssemblyGone):
            if self._store.stat(INDEX_KEY) == published:
                self._store.delete([INDEX_KEY])
            raise

    def check_result(self) -> None:
        """Raise ObjectExists unless the store still has the result that the index belongs to.

        Two merges of the same chunks write the same bytes, so a result with the same table of chunks is the same one.
        """
        if self._store.stat(RESULT_KEY) == self._result.finished.result:
            return
        finished, summary = find_finished(self._store), self._result.summary
        if (
            finished is None
            or not summary.table_digest
            or (finished.summary.fingerprint, finished.summary.table_digest)
            != (summary.fingerprint, summary.table_digest)
        ):
            raise ObjectExists(self._store.location(RESULT_KEY))

    def _put(self, path: Path, *, sha256: str) -> ObjectStat:
        if isinstance(self._store, FolderStore) and path.parent == self._store.root:
            with written_file(path):
                _sync(path)
            return self._store.publish(INDEX_KEY, path, digest=sha256, overwrite=False, replacing=self._replacing)
        return put_large_file(self._store, INDEX_KEY, path, replacing=self._replacing)


def clear_up(store: Store) -> None:
    """Remove what killed index programs left. Another one that uploads at this moment looks again."""
    leftovers = store.abort_assemblies(INDEX_KEY) if not isinstance(store, FolderStore) else store.clear_up([INDEX_KEY])
    if leftovers:
        log.info("cleared_up", leftovers=leftovers)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
