"""A worker without a model: its log lines, exit codes and chunk files are those of the real worker.

TEST_FOLDER has the journal of all attempts. TEST_BEHAVIOURS says what each attempt at a chunk does, as JSON:
{"3": ["75", "SIGKILL"], "4": ["78 while hanging 5"], "5": ["hang"], "6": ["lose 3"], "7": ["fail images"], "8": ["defer
3"], "9": ["slow"]}. Attempts beyond the list succeed. With EMBEDDER_TOP_UP, the deferred images of a chunk file are
embedded.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ConfigError, DataError, TemporaryError, TooManyFailures
from common.format.chunk_file import Chunk, Failure, read_header, write_chunk
from common.format.provenance import Provenance
from common.format.reasons import Reason
from common.format.result_file import read_result
from common.logs import CHUNK_PROGRESS, CHUNK_STARTED, SLOW_SITE, configure_logs, log
from common.process import program
from common.run.keys import RESULT_KEY, chunk_key
from common.run.state import find_finished
from common.store import open_store
from worker.chunk_job.failures_file import FailuresFile
from worker.failure_report import report_on

if TYPE_CHECKING:
    from common.store.contract import Store

ROWS = 10
INDEX = int(os.environ["JOB_COMPLETION_INDEX"])
FOLDER = Path(os.environ["TEST_FOLDER"])


def main() -> program.Finished:
    behaviours = json.loads(os.environ.get("TEST_BEHAVIOURS", "{}")).get(str(INDEX), [])
    before = len(list(FOLDER.glob(f"worker-{INDEX}-*")))
    (FOLDER / f"worker-{INDEX}-{before}").write_text(
        json.dumps({"pid": os.getpid(), "environment": dict(os.environ), "time": time.time_ns()})
    )
    behaviour = behaviours[before] if before < len(behaviours) else "succeed"
    behave(behaviour)
    word, _, count = behaviour.partition(" ")
    lost = int(count) if word in REASONS else 0
    return program.Finished(embed(open_store(os.environ["EMBEDDER_RUN_URI"]), lost=lost, reason=REASONS.get(word)))


REASONS = {"lose": Reason.NOT_FOUND, "defer": Reason.DEFERRED}


ENDINGS = {
    "65": DataError("3 of 10 images failed, the limit is 2; look at the sources"),
    "75": TemporaryError("the store does not answer"),
    "78": ConfigError("EMBEDDER_DTYPE is 'float8': choose float32"),
}


def report_failures() -> None:
    """End the chunk for the sake of its failed images, as a worker does."""
    failures = [
        Failure(
            row, f"https://example.org/{INDEX}/{row}.jpg", Reason.NOT_FOUND if row else Reason.TIMEOUT, "it is gone"
        )
        for row in range(4)
    ]
    report = report_on(failures, requested=ROWS, max_failure_ratio=0.2)
    report.log()
    listed_at = FailuresFile(open_store(os.environ["EMBEDDER_RUN_URI"]), INDEX).write(failures)
    raise TooManyFailures(f"{report.sentence()}; all of them: {listed_at}")


def behave(behaviour: str) -> None:
    word, _, other = behaviour.partition(" while hanging ")
    while other and not (FOLDER / f"hanging-{other}").exists():
        time.sleep(0.01)
    if word in ENDINGS:
        raise ENDINGS[word]
    match word:
        case "crash":
            sys.stderr.write("Fatal: \x1b[31mno such instruction\n")
            sys.stderr.flush()
            os._exit(1)
        case "fail images":
            report_failures()
        case "warn":
            log.warning("slow_source", host="example.org", wait_s=30)
        case "slow":
            log.info(CHUNK_STARTED, of=int(os.environ["EMBEDDER_CHUNK_COUNT"]), rows=ROWS)
            log.info(CHUNK_PROGRESS, images=1, of=ROWS, failed=0, deferred=0, waiting_on="fetch")
            log.warning(SLOW_SITE, site="slow.example", rate_per_s=0.5, left=9, done_in_s=18)
            time.sleep(0.3)
        case "flood":
            sys.stdout.write("x" * 3_000_000)
        case "hang" | "ignore":
            hang(word)
        case signal_name if signal_name.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[signal_name])


def hang(behaviour: str) -> None:
    if behaviour == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log.info("started", of=int(os.environ["EMBEDDER_CHUNK_COUNT"]), rows=ROWS)
    (FOLDER / f"hanging-{INDEX}").touch()
    log.warning("hanging")
    while True:
        signal.pause()


def provenance() -> Provenance:
    return Provenance(
        manifest=os.environ["EMBEDDER_MANIFEST_URI"],
        chunk_count=int(os.environ["EMBEDDER_CHUNK_COUNT"]),
        model=os.environ.get("EMBEDDER_MODEL", "some/model"),
        model_revision="",
        weights=os.environ.get("EMBEDDER_MODEL", "some/model"),
        dtype="float32",
        preprocessing="1",
        rotation=True,
        sources="url",
    )


def embed(store: Store, *, lost: int, reason: Reason | None) -> str:
    """Store a chunk with ROWS images that are embedded and `lost` images that are not, unless the chunk is done."""
    found = store.stat(chunk_key(INDEX))
    again = 0
    if found is not None:
        with store.open(found.key, found.size) as file:
            header = read_header(file, name=found.key)
        provenance().check_same(header.provenance, name=found.key)
        if os.environ.get("EMBEDDER_TOP_UP") != "true" or not header.failed:
            return f"{found.key} is in the store already"
        again = header.failed
    result = store.stat(RESULT_KEY)
    if result is not None:
        with store.open(RESULT_KEY, result.size) as file:
            provenance().check_same(read_result(file, name=RESULT_KEY).provenance, name=RESULT_KEY)
    finished = find_finished(store)
    if finished is not None and finished.holds(INDEX):
        return f"{RESULT_KEY} is in the store already"
    rows = ROWS + again
    log.info("started", of=int(os.environ["EMBEDDER_CHUNK_COUNT"]), rows=rows + lost)
    embeddings = np.eye(rows, 512, dtype=np.float32)
    chunk = Chunk(
        index=INDEX,
        urls=[f"https://example.org/{INDEX}/{row}.jpg" for row in range(rows)],
        ids=None,
        embeddings=embeddings,
        failures=[
            Failure(ROWS + row, f"https://example.org/{INDEX}/{ROWS + row}.jpg", reason or Reason.NOT_FOUND, "404")
            for row in range(lost)
        ],
        provenance=provenance(),
    )
    with tempfile.TemporaryDirectory() as folder:
        write_chunk(Path(folder) / "chunk.h5", chunk)
        store.put_file(chunk_key(INDEX), Path(folder) / "chunk.h5", overwrite=False, replacing=found)
    FailuresFile(store, INDEX).remove()
    log.info("embedded", images=rows + lost, of=rows + lost, failed=lost, rate_per_s=81.2, waiting_on="fetch")
    return f"{ROWS} images embedded"


configure_logs(chunk=INDEX)
program.run(main)
