"""Workers and merges are told to stop at any moment.

They exit with 143 in time, leave nothing half-written, and say how far they were.
"""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from common.logs import parse_line
from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from merger.progress import Step
from tests.interruptions.killing import asks, deletes_after_check, is_access_check, says
from tests.interruptions.runs import ended
from tests.merger.runs import assert_merged, put_run, run_merger
from tests.s3_proxy import Outage, s3_proxy, stall
from tests.worker.worker_process import PHOTOS, object_keys, start_worker, worker_environment, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from subprocess import Popen

    from mypy_boto3_s3 import S3Client

    from common.logs import LogLine
    from tests.interruptions.runs import RunOfImages
    from tests.s3_proxy import Request
    from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 20
"""Longest time from the signal to the end of a program, in seconds. On a machine without other work 10 are promised."""

SILENT_SECONDS = 600.0
"""Time for which a silent store does not answer, in seconds: longer than any test."""


class Stopped(NamedTuple):
    exit_code: int
    lines: list[LogLine]
    seconds: float
    """Time from the signal to the end."""


def stopped(process: Popen[str]) -> Stopped:
    """Send SIGTERM to the program, and return how it ended."""
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    _, log = process.communicate(timeout=60)
    lines = [line for text in log.splitlines() if (line := parse_line(text)) is not None]
    return Stopped(process.returncode, lines, time.monotonic() - begun)


def stopped_at(
    request: Callable[[Request], bool], *, s3: S3Server, start: Callable[[Mapping[str, str]], Popen[str]]
) -> Stopped:
    """Stop a program that waits for a store which answers neither this request nor any later one."""
    outage = Outage(stall(SILENT_SECONDS), seconds=SILENT_SECONDS, begins=request)
    with s3_proxy(s3, outage) as proxy, start(proxy.environment) as process:
        while not outage.struck and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        return stopped(process)


def assert_stopped(end: Stopped, event: str) -> LogLine:
    """Check that a program ended as promised, and return the log line that says how far it was."""
    assert end.exit_code == 143, end
    assert end.seconds < LIMIT_SECONDS
    assert end.lines[-1].event == "stopped"
    assert end.lines[-2].event == event, end
    return end.lines[-2]


@pytest.mark.usefixtures("s3_environment")
def test_a_program_told_to_stop_while_it_starts_exits_143_and_says_that_nothing_is_done(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/run"
    environment = worker_environment(run_uri=uri, manifest_uri=write_manifest(tmp_path, [str(PHOTOS[0])]))
    # A silent store keeps the programs from ending before the signal comes.
    silent = Outage(stall(SILENT_SECONDS), seconds=SILENT_SECONDS, begins=lambda _: True)
    with s3_proxy(s3, silent) as proxy:
        starts: dict[str, Callable[[], Popen[str]]] = {
            "embedded": lambda: start_worker(environment | proxy.environment),
            "merging": lambda: run_merger(uri, 1, proxy.environment),
        }
        for event, start in starts.items():
            for seconds in (0.02, 0.1, 0.2, 0.4, 0.8):
                with start() as process:
                    time.sleep(seconds)
                    end = stopped(process)
                # Before Python's first line the system ends the process. A cluster sees the same exit code.
                if end.exit_code == -signal.SIGTERM and not end.lines:
                    continue
                assert assert_stopped(end, event).values["of"] in {"unknown", "0"}


WORKER_MOMENTS = {
    "checking access": asks("ListObjectsV2"),
    "probing": is_access_check,
    "looking": asks("HeadObject", chunk_key(0)),
    "uploading": asks("PutObject", chunk_key(0)),
}


@pytest.mark.usefixtures("s3_environment")
def test_a_worker_told_to_stop_while_the_store_is_silent_says_how_far_it_was(
    s3: S3Server, bucket: str, model: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "manifest_uri": write_manifest(tmp_path, [str(photo) for photo in PHOTOS]),
        "model": model,
    }

    def stop(moment: str) -> Stopped:
        environment = worker_environment(run_uri=f"s3://{bucket}/{moment}", **settings)
        return stopped_at(WORKER_MOMENTS[moment], s3=s3, start=lambda sdk: start_worker(environment | dict(sdk)))

    with ThreadPoolExecutor(len(WORKER_MOMENTS)) as pool:
        ends = dict(zip(WORKER_MOMENTS, pool.map(stop, WORKER_MOMENTS), strict=True))
    for moment, end in ends.items():
        line = assert_stopped(end, "embedded")
        assert line.values["images"] == (str(len(PHOTOS)) if moment == "uploading" else "0"), moment
    assert object_keys(open_store(f"s3://{bucket}")) == []


@pytest.mark.usefixtures("s3_environment")
def test_a_worker_told_to_stop_between_two_batches_says_how_far_it_was(
    s3: S3Server, bucket: str, run: RunOfImages
) -> None:
    run.watches[1].last_image_seconds = 60
    has_begun = says("embedded", images=lambda settled: int(settled) > 8)
    with run.start_worker(f"s3://{bucket}/run", 1, s3.environment) as process:
        assert process.stderr is not None
        for text in process.stderr:
            line = parse_line(text)
            if line is not None and has_begun(line):
                break
        end = stopped(process)
    assert int(assert_stopped(end, "embedded").values["images"]) > 8
    assert object_keys(open_store(f"s3://{bucket}/run")) == []


MERGE_MOMENTS = {
    Step.HEADERS: asks("GetObject", ".h5"),
    Step.PARTS: asks("UploadPartCopy", RESULT_KEY),
    Step.PUBLISHING: asks("CompleteMultipartUpload", RESULT_KEY),
    Step.VERIFYING: asks("GetObject", RESULT_KEY),
    Step.LEDGER: asks("PutObject", FAILURES_KEY),
    Step.SUMMARY: asks("PutObject", SUMMARY_KEY),
    Step.CLEARING_UP: deletes_after_check(),
}


@pytest.mark.usefixtures("s3_environment")
def test_a_merge_told_to_stop_while_the_store_is_silent_says_how_far_it_was_and_is_completed_by_the_next(
    s3: S3Server, s3_api: S3Client, bucket: str, tmp_path: Path
) -> None:
    original = open_store(str(tmp_path / "run"))
    chunks = put_run(original, [2600, 40, 2700], failed=2)
    stores = {step: open_store(f"s3://{bucket}/{step}") for step in MERGE_MOMENTS}
    for key in object_keys(original):
        for store in stores.values():
            store.put_file(key, tmp_path / "run" / key)

    def stop(step: Step) -> Stopped:
        return stopped_at(MERGE_MOMENTS[step], s3=s3, start=lambda sdk: run_merger(stores[step].uri, 3, sdk))

    # A program that is told to stop mostly waits, so all may do so at once.
    with ThreadPoolExecutor(len(MERGE_MOMENTS)) as pool:
        ends = dict(zip(MERGE_MOMENTS, pool.map(stop, MERGE_MOMENTS), strict=True))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda store: ended(run_merger(store.uri, 3, s3.environment)), stores.values()))
    for step, end in ends.items():
        assert assert_stopped(end, "merging").values["step"] == step
        assert_merged(stores[step], chunks)
        assert object_keys(stores[step]) == [RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY]
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)
