"""Workers and merges that are told to stop at any moment: 143 in time, nothing half-written, and how far they were."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import pytest

from common.logs import parse_line
from common.run.keys import FAILURES_KEY, RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from merger.progress import Step
from tests.interruptions.killing import asks, says
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

LIMIT_SECONDS = 20
"""10 are promised, on a machine that is not busy with other tests."""

SILENT_SECONDS = 600.0
"""For so long a store does not answer: for good."""


class Stopped(NamedTuple):
    exit_code: int
    lines: list[LogLine]
    seconds: float
    """From the signal to the end."""


def stopped(process: Popen[str]) -> Stopped:
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    _, log = process.communicate(timeout=60)
    lines = [line for text in log.splitlines() if (line := parse_line(text)) is not None]
    return Stopped(process.returncode, lines, time.monotonic() - begun)


def stopped_at(
    request: Callable[[Request], bool], *, s3: S3Server, start: Callable[[Mapping[str, str]], Popen[str]]
) -> Stopped:
    """Stop a program while the store has left this request, and all after it, without an answer."""
    outage = Outage(stall(SILENT_SECONDS), seconds=SILENT_SECONDS, begins=request)
    with s3_proxy(s3, outage) as proxy, start(proxy.environment) as process:
        while not outage.struck and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        return stopped(process)


def assert_stopped(end: Stopped, event: str) -> LogLine:
    """Check that a program ended as it should, and return the line that says how far it was."""
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
    # Nothing is to be done so soon that the signal comes too late.
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
                # Before the first line of Python it is the system that ends it, with the same code to a cluster.
                if end.exit_code == -signal.SIGTERM and not end.lines:
                    continue
                assert assert_stopped(end, event).values["of"] in {"unknown", "0"}


WORKER_MOMENTS = {
    "checking access": asks("ListObjectsV2"),
    "probing": asks("AbortMultipartUpload"),
    "looking": asks("HeadObject", chunk_key(0)),
    "uploading": asks("PutObject", chunk_key(0)),
}


@pytest.mark.slow
@pytest.mark.usefixtures("s3_environment")
def test_a_worker_told_to_stop_while_the_store_is_silent_says_how_far_it_was(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, [str(photo) for photo in PHOTOS])

    def stop(moment: str) -> Stopped:
        environment = worker_environment(run_uri=f"s3://{bucket}/{moment}", manifest_uri=manifest)
        return stopped_at(WORKER_MOMENTS[moment], s3=s3, start=lambda sdk: start_worker(environment | dict(sdk)))

    with ThreadPoolExecutor(2) as pool:
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
    Step.CLEARING_UP: asks("DeleteObjects"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("s3_environment")
def test_a_merge_told_to_stop_while_the_store_is_silent_says_how_far_it_was_and_is_completed_by_the_next(
    s3: S3Server, s3_api: S3Client, bucket: str
) -> None:
    stores = {step: open_store(f"s3://{bucket}/{step}") for step in MERGE_MOMENTS}
    runs = {step: put_run(store, [2600, 40, 2700], failed=2) for step, store in stores.items()}

    def stop(step: Step) -> Stopped:
        return stopped_at(MERGE_MOMENTS[step], s3=s3, start=lambda sdk: run_merger(stores[step].uri, 3, sdk))

    with ThreadPoolExecutor(4) as pool:
        ends = dict(zip(MERGE_MOMENTS, pool.map(stop, MERGE_MOMENTS), strict=True))
    for step, end in ends.items():
        assert assert_stopped(end, "merging").values["step"] == step
        ended(run_merger(stores[step].uri, 3, s3.environment))
        assert_merged(stores[step], runs[step])
        assert object_keys(stores[step]) == [RESULT_KEY, FAILURES_KEY, SUMMARY_KEY]
    assert "Uploads" not in s3_api.list_multipart_uploads(Bucket=bucket)
