"""A merger as `embedder run` sees one; the "result" holds nothing but the run's fingerprint."""

from __future__ import annotations

import json
import os
from pathlib import Path

from common.errors import ChunksMissing, DataError, TemporaryError
from common.format.chunk_file import read_header
from common.indexes import format_indexes
from common.logs import configure_logs, log
from common.process import program
from common.run.keys import RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store

FOLDER = Path(os.environ["TEST_FOLDER"])


def main() -> program.Finished:
    if "JOB_COMPLETION_INDEX" in os.environ:
        raise DataError("the merger is no indexed pod")
    behaviours = json.loads(os.environ.get("TEST_BEHAVIOURS", "{}")).get("merge", [])
    before = len(list(FOLDER.glob("merger-*")))
    (FOLDER / f"merger-{before}").touch()
    if before < len(behaviours):
        raise {"65": DataError, "75": TemporaryError}[behaviours[before]]("the merge went wrong")
    store = open_store(os.environ["EMBEDDER_RUN_URI"])
    if store.stat(RESULT_KEY) is not None:
        return program.Finished("the run is finished")
    keys = [chunk_key(index) for index in range(int(os.environ["EMBEDDER_CHUNK_COUNT"]))]
    found = [store.stat(key) for key in keys]
    missing = [index for index, each in enumerate(found) if each is None]
    if missing:
        raise ChunksMissing(f"chunks {format_indexes(missing)} are missing")
    headers = []
    for each in filter(None, found):
        with store.open(each.key, each.size) as file:
            headers.append(read_header(file, name=each.key))
    rows = sum(header.requested for header in headers)
    log.info("merged", chunks=len(keys), rows=rows)
    store.put_bytes(RESULT_KEY, headers[0].fingerprint.encode())
    summary = {
        "rows_requested": rows + 3,
        "rows_embedded": rows,
        "rows_failed": 3,
        "failures_by_reason": {"not_found": 3},
        "chunks_missing": "",
    }
    store.put_bytes(SUMMARY_KEY, json.dumps(summary).encode())
    if os.environ.get("EMBEDDER_KEEP_CHUNKS") != "true":
        store.delete(keys)
    return program.Finished(f"{rows} rows merged")


configure_logs()
program.run(main)
