"""The merger, in front of which a test can put faults.

TEST_BEHAVIOURS says what each attempt does, as JSON: {"merge": ["75", "65"]}. Attempts beyond the list run the real
merge. TEST_FOLDER has the journal of all attempts.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from common.errors import DataError, TemporaryError
from common.logs import configure_logs
from common.process import program
from common.run.state import find_finished
from common.settings import read_settings
from common.store import open_store
from merger.merge import merge
from merger.settings import MergerSettings

FOLDER = Path(os.environ["TEST_FOLDER"])


def main() -> program.Finished:
    if "JOB_COMPLETION_INDEX" in os.environ:
        raise DataError("the merger is not the pod of an Indexed Job")
    behaviours = json.loads(os.environ.get("TEST_BEHAVIOURS", "{}")).get("merge", [])
    before = len(list(FOLDER.glob("merger-*")))
    (FOLDER / f"merger-{before}").touch()
    if before < len(behaviours):
        raise {"65": DataError, "75": TemporaryError}[behaviours[before]]("the merge went wrong")
    settings = read_settings(MergerSettings)
    store = open_store(settings.run_uri)
    was_finished = find_finished(store) is not None
    merge(store, settings)
    finished = find_finished(store)
    if finished is None:
        raise DataError("the merge has ended without a finished run")
    if was_finished:
        return program.Finished("the run is finished")
    return program.Finished(f"{finished.header.embedded} rows merged")


configure_logs()
program.run(main)
