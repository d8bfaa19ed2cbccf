"""The gate, with real stores and an API that misbehaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from common.errors import ChunkInvalid, ChunksMissing, ExitCode, RunUnfinished, StoreAccessDenied, StoreUnavailable
from common.logs import parse_line
from common.run.keys import RESULT_KEY, SUMMARY_KEY, chunk_key
from k8s.gate.__main__ import describe_opening, describe_result
from k8s.gate.gate import AllChunksPresent, Gate, MergeWithout
from k8s.gate.report import report
from k8s.gate.settings import GateSettings
from k8s.gate.watch import WorkerPhase, WorkerState, WorkerWatch
from k8s.release.cause import Cause
from merger.merge import merge
from tests.k8s.cluster_double import NAMESPACE, ClusterDouble, Fault, Request
from tests.k8s.gate.waiting import COUNT, wait_for_watch
from tests.k8s.release_objects import worker_job
from tests.merger.runs import put_run, settings_for
from tests.scrape import free_port, scrape

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

    from common.logs import LogLine
    from common.store.contract import ObjectStat, Store
    from k8s.gate.gate import Opening


def put_chunks(store: Store, *indexes: int) -> None:
    for index in indexes:
        store.put_bytes(chunk_key(index), b"a chunk")


def settings(store: Store, **options: object) -> GateSettings:
    defaults = {"run_uri": store.uri, "chunk_count": COUNT, "poll_seconds": 0.2, "reminder_seconds": 1000}
    return GateSettings.model_validate(defaults | {"POD_NAMESPACE": NAMESPACE} | options)


@dataclass
class RunningGate:
    """A gate in a thread of its own."""

    thread: threading.Thread
    outcome: list[Opening | Exception] = field(default_factory=list)

    def end(self) -> Opening:
        self.thread.join(30)
        assert self.outcome, "the gate still waits"
        if isinstance(self.outcome[0], Exception):
            raise self.outcome[0]
        return self.outcome[0]


def start_gate(store: Store, **options: object) -> RunningGate:
    configured = settings(store, **options)
    gate = Gate(configured, store, WorkerWatch(configured))

    def run() -> None:
        try:
            running.outcome.append(gate.wait())
        except Exception as error:  # noqa: BLE001 - raised again in the test's own thread
            running.outcome.append(error)

    running = RunningGate(threading.Thread(target=run, daemon=True))
    running.thread.start()
    return running


def watches(cluster: ClusterDouble) -> int:
    return cluster.count("watch", "jobs")


def test_it_opens_at_once_when_all_chunks_are_there_while_the_job_still_runs(
    cluster: ClusterDouble, store: Store
) -> None:
    cluster.put("jobs", worker_job(COUNT, active=1))
    put_chunks(store, *range(COUNT))
    opening = start_gate(store).end()
    assert opening == AllChunksPresent(COUNT)
    assert describe_opening(opening) == "all 4 chunks are there"


def test_it_opens_when_the_last_chunk_comes(cluster: ClusterDouble, store: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, active=1))
    put_chunks(store, 0, 1, 2)
    gate = start_gate(store)
    wait_for_watch(cluster)
    put_chunks(store, 3)
    gate.end()


def test_the_end_of_the_job_is_noticed_before_the_next_list(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, active=1))
    gate = start_gate(folder, poll_seconds=600)
    wait_for_watch(cluster)
    put_chunks(folder, *range(COUNT))
    cluster.put("jobs", worker_job(COUNT, ended="Complete"))
    gate.end()


def test_it_asks_for_no_more_than_its_role_allows(cluster: ClusterDouble, folder: Store) -> None:
    def is_allowed(request: Request) -> bool:
        return request.resource == "jobs" and request.query.get("fieldSelector") == "metadata.name=embedder-worker"

    cluster.is_allowed = is_allowed
    cluster.put("jobs", worker_job(COUNT, active=1))
    gate = start_gate(folder, poll_seconds=600, on_failed_chunks="fail")
    wait_for_watch(cluster)
    cluster.put("jobs", worker_job(COUNT, failed="0-3", ended="Failed"))
    with pytest.raises(ChunksMissing):
        gate.end()


def test_fail_says_which_chunks_are_missing_and_why(cluster: ClusterDouble, store: Store) -> None:
    message = "Container worker for pod photos/embedder-worker-1-x failed with exit code 78 matching FailJob rule"
    cluster.put("jobs", worker_job(COUNT, ended="Failed", reason="PodFailurePolicy", message=message))
    put_chunks(store, 2)
    with pytest.raises(ChunksMissing) as raised:
        start_gate(store, on_failed_chunks="fail").end()
    assert "1 of 4 chunks are there, missing are 0,1,3" in str(raised.value)
    assert "exit code 78" in str(raised.value)
    assert f"embedder rerun --release embedder -n {NAMESPACE} --chunks 0,1,3" in str(raised.value)


def test_the_gate_of_a_run_of_one_chunk_does_not_count_chunks(cluster: ClusterDouble, store: Store) -> None:
    cluster.put("jobs", worker_job(1, failed="0", ended="Failed"))
    with pytest.raises(ChunksMissing) as raised:
        start_gate(store, on_failed_chunks="fail", chunk_count=1).end()
    assert "and the chunk of the run is missing; to compute it again: embedder rerun" in str(raised.value)
    assert "chunks" not in str(raised.value).replace("--chunks 0", "")


def test_partial_opens_without_the_missing_chunks(cluster: ClusterDouble, store: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, failed="1,3", ended="Failed"))
    put_chunks(store, 0, 2)
    opening = start_gate(store, on_failed_chunks="partial").end()
    assert opening == MergeWithout(frozenset({1, 3}), COUNT)
    assert describe_opening(opening) == "2 of 4 chunks are there; they are merged without chunks 1,3"


def test_partial_without_any_chunk_fails(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, failed="0-3", ended="Failed"))
    with pytest.raises(ChunksMissing):
        start_gate(folder, on_failed_chunks="partial").end()


@pytest.mark.parametrize("mode", ["fail", "partial"])
def test_chunks_that_may_still_come_are_waited_for_in_every_mode(
    cluster: ClusterDouble, folder: Store, mode: str
) -> None:
    cluster.put("jobs", worker_job(COUNT, failed="1", completed="0", active=2))
    put_chunks(folder, 0)
    gate = start_gate(folder, on_failed_chunks=mode)
    wait_for_watch(cluster, more_than=1)
    assert not gate.outcome
    put_chunks(folder, 1, 2, 3)
    gate.end()


def test_a_chunk_that_the_job_completed_is_looked_for_a_while(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, completed="0-3", ended="Complete"))
    put_chunks(folder, 0, 1, 2)
    gate = start_gate(folder, on_failed_chunks="fail")
    wait_for_watch(cluster)
    assert not gate.outcome
    put_chunks(folder, 3)
    gate.end()


def test_a_chunk_that_was_deleted_is_missing_in_the_end(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, completed="0-3", ended="Complete"))
    put_chunks(folder, 0, 1, 2)
    with pytest.raises(ChunksMissing, match=r"Job embedder-worker is complete .* --chunks 3 --force"):
        start_gate(folder, on_failed_chunks="fail", settle_seconds=0.3).end()


def test_a_job_that_is_not_there_yet_has_not_ended(cluster: ClusterDouble, folder: Store) -> None:
    gate = start_gate(folder, on_failed_chunks="fail", poll_seconds=600)
    wait_for_watch(cluster)
    assert not gate.outcome
    cluster.put("jobs", worker_job(COUNT, failed="0-3", ended="Failed"))
    with pytest.raises(ChunksMissing):
        gate.end()


def test_a_job_that_is_created_again_is_waited_for(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, failed="0-3", ended="Failed"))
    gate = start_gate(folder)
    wait_for_watch(cluster)
    cluster.delete("jobs", "embedder-worker")
    cluster.put("jobs", worker_job(COUNT, active=4))
    put_chunks(folder, *range(COUNT))
    gate.end()


@pytest.mark.parametrize(("mode", "has_seen_the_end"), [("fail", True), ("partial", True), ("fail", False)])
def test_a_job_that_has_ended_and_is_deleted_by_its_time_to_live_has_ended(
    cluster: ClusterDouble, folder: Store, mode: str, has_seen_the_end: bool
) -> None:
    put_chunks(folder, 0, 1)
    cluster.put("jobs", worker_job(COUNT, active=1))
    gate = start_gate(folder, on_failed_chunks=mode, poll_seconds=600, settle_seconds=0)
    wait_for_watch(cluster)
    ended = worker_job(COUNT, completed="0,1", failed="2,3", ended="Failed")
    if has_seen_the_end:
        cluster.put("jobs", ended)
    else:  # the event of the deletion is the only one that shows the end
        with cluster.changed:
            cluster.objects["jobs"]["embedder-worker"] = ended
            cluster.delete("jobs", "embedder-worker")
    if mode == "partial":
        assert gate.end() == MergeWithout(frozenset({2, 3}), COUNT)
    else:
        with pytest.raises(ChunksMissing, match="Job embedder-worker has failed"):
            gate.end()


def test_a_job_that_is_deleted_while_the_gate_settles_has_ended(cluster: ClusterDouble, folder: Store) -> None:
    put_chunks(folder, 0)
    cluster.put("jobs", worker_job(COUNT, completed="0,1", failed="2,3", ended="Failed"))
    gate = start_gate(folder, on_failed_chunks="fail", settle_seconds=2)
    wait_for_watch(cluster)
    cluster.delete("jobs", "embedder-worker")
    with pytest.raises(
        ChunksMissing, match=r"FailedIndexes.* and has been deleted .* helm upgrade .*rerun\.chunks=\"1-3\""
    ):
        gate.end()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("mode", ["fail", "partial"])
def test_a_gate_that_starts_after_the_job_was_deleted_does_not_wait_for_ever(folder: Store, mode: str) -> None:
    put_chunks(folder, 0, 1)
    gate = start_gate(folder, on_failed_chunks=mode, absence_seconds=0.5)
    if mode == "partial":
        assert gate.end() == MergeWithout(frozenset({2, 3}), COUNT)
    else:
        with pytest.raises(ChunksMissing, match="Job embedder-worker does not exist any more"):
            gate.end()


def test_a_gate_that_waits_says_that_nothing_computes_the_chunks_of_a_deleted_job(
    cluster: ClusterDouble, folder: Store, logs: io.StringIO
) -> None:
    gate = start_gate(folder, absence_seconds=0.5)
    wait_for_watch(cluster, more_than=3)
    assert not gate.outcome
    put_chunks(folder, *range(COUNT))
    gate.end()
    said = [line for line in gate_lines(logs.getvalue()) if line.event == "waiting"]
    assert [line.level for line in said] == ["info", "warning"]
    command = 'helm upgrade embedder <chart> --reuse-values -n photos --set rerun.chunks="0-3"'
    assert said[1].values["message"] == f"Job embedder-worker does not exist any more; to compute them again: {command}"


def test_a_job_whose_absence_cannot_be_seen_may_still_exist(cluster: ClusterDouble, folder: Store) -> None:
    cluster.is_allowed = lambda _: False
    gate = start_gate(folder, on_failed_chunks="fail", absence_seconds=0)
    cluster.wait_for(lambda double: double.count("list", "jobs") > 2)
    assert not gate.outcome
    put_chunks(folder, *range(COUNT))
    gate.end()


def test_a_job_that_is_deleted_before_it_ends_may_be_created_again(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, active=1))
    gate = start_gate(folder, on_failed_chunks="fail", absence_seconds=600)
    wait_for_watch(cluster)
    cluster.delete("jobs", "embedder-worker")
    wait_for_watch(cluster, more_than=watches(cluster) + 1)
    assert not gate.outcome
    cluster.put("jobs", worker_job(COUNT, active=4))
    put_chunks(folder, *range(COUNT))
    gate.end()


def test_after_410_gone_the_job_is_listed_again(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, active=1))
    gate = start_gate(folder, poll_seconds=600, on_failed_chunks="fail")
    wait_for_watch(cluster)
    lists = cluster.count("list", "jobs")
    cluster.forget_history()
    cluster.wait_for(lambda double: double.count("list", "jobs") > lists)
    cluster.put("jobs", worker_job(COUNT, ended="Failed"))
    with pytest.raises(ChunksMissing):
        gate.end()


def test_a_watch_that_breaks_off_is_continued(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, active=1))
    gate = start_gate(folder, poll_seconds=600, on_failed_chunks="fail")
    wait_for_watch(cluster)
    before = watches(cluster)
    cluster.drop_streams()
    wait_for_watch(cluster, more_than=before)
    cluster.put("jobs", worker_job(COUNT, ended="Failed"))
    with pytest.raises(ChunksMissing):
        gate.end()


@pytest.mark.parametrize("fault", [Fault(0), Fault(429, {"Retry-After": "1"}), Fault(500), Fault(503)])
def test_faults_of_the_api_are_waited_out(cluster: ClusterDouble, folder: Store, fault: Fault) -> None:
    cluster.put("jobs", worker_job(COUNT, ended="Failed"))
    cluster.faults = [("list", fault), ("list", fault)]
    with pytest.raises(ChunksMissing):
        start_gate(folder, on_failed_chunks="fail").end()
    assert not cluster.faults


def gate_lines(text: str) -> list[LogLine]:
    return [line for line in map(parse_line, text.splitlines()) if line is not None]


@pytest.mark.parametrize("obstacle", ["forbidden", "unauthorized", "no API"])
def test_without_access_the_store_alone_is_watched_and_it_says_so_once(
    cluster: ClusterDouble,
    folder: Store,
    obstacle: str,
    monkeypatch: pytest.MonkeyPatch,
    logs: io.StringIO,
) -> None:
    if obstacle == "forbidden":
        cluster.is_allowed = lambda _: False
    elif obstacle == "unauthorized":
        cluster.tokens = set()
    else:
        monkeypatch.delenv("KUBECONFIG")
        monkeypatch.setenv("HOME", "/nowhere")
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    gate = start_gate(folder, on_failed_chunks="fail", poll_seconds=0.5)
    put_chunks(folder, 0, 1, 2)
    if obstacle != "no API":
        cluster.wait_for(lambda double: double.count("list", "jobs") > 3)
    put_chunks(folder, 3)
    assert gate.end() == AllChunksPresent(COUNT)
    lines = gate_lines(logs.getvalue())
    assert [line.event for line in lines].count("api_denied") == 1


def test_a_failed_chunk_is_named_with_the_command_while_the_job_still_runs(
    cluster: ClusterDouble, folder: Store, logs: io.StringIO
) -> None:
    cluster.put("jobs", worker_job(COUNT, failed="2", active=2))
    gate = start_gate(folder, release="photos")
    wait_for_watch(cluster)
    put_chunks(folder, *range(COUNT))
    gate.end()
    waiting = next(line for line in gate_lines(logs.getvalue()) if line.event == "waiting")
    assert waiting.level == "warning"
    assert waiting.values["message"].endswith(f"embedder rerun --release photos -n {NAMESPACE} --chunks 2")


class FlakyStore:
    """A store whose lists fail for a while. It has only the methods that the gate calls."""

    def __init__(self, store: Store, *failures: Exception | None) -> None:
        self._store, self._failures = store, list(failures)
        self.uri = store.uri

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        if self._failures and (failure := self._failures.pop(0)) is not None:
            raise failure
        return self._store.list(prefix)

    def stat(self, key: str) -> ObjectStat | None:
        return self._store.stat(key)


def wait_with(store: FlakyStore) -> Opening:
    configured = GateSettings(run_uri=store.uri, chunk_count=COUNT, poll_seconds=0.2)
    return Gate(configured, store, WorkerWatch(configured)).wait()  # type: ignore[arg-type]


@pytest.mark.usefixtures("cluster")
def test_faults_of_the_store_are_waited_out_and_denials_too_once_it_has_answered(folder: Store) -> None:
    put_chunks(folder, 0)
    denied, down = StoreAccessDenied("the token has expired"), StoreUnavailable("503")

    flaky = FlakyStore(folder, down, None, down, denied)
    threading.Timer(0.1, put_chunks, [folder, 1, 2, 3]).start()
    assert wait_with(flaky) == AllChunksPresent(COUNT)


@pytest.mark.usefixtures("cluster")
def test_a_store_that_refuses_from_the_start_is_a_wrong_setting(folder: Store) -> None:
    with pytest.raises(StoreAccessDenied):
        wait_with(FlakyStore(folder, StoreUnavailable("503"), StoreAccessDenied("no such bucket")))


def test_a_finished_result_needs_no_chunks(cluster: ClusterDouble, store: Store) -> None:
    put_run(store, [3] * COUNT)
    merge(store, settings_for(store, COUNT))
    cluster.put("jobs", worker_job(COUNT, ended="Failed"))
    assert store.stat(chunk_key(0)) is None
    assert start_gate(store, on_failed_chunks="fail").end() == AllChunksPresent(COUNT)


def test_a_result_without_some_chunks_is_not_finished(cluster: ClusterDouble, store: Store) -> None:
    put_run(store, [3] * COUNT)
    store.delete([chunk_key(2)])
    merge(store, settings_for(store, COUNT, on_missing_chunks="partial"))
    cluster.put("jobs", worker_job(COUNT, failed="2", ended="Failed"))
    with pytest.raises(ChunksMissing):
        start_gate(store, on_failed_chunks="fail").end()


def test_the_report_distinguishes_a_sound_result_a_damaged_one_and_none(cluster: ClusterDouble, store: Store) -> None:
    configured = settings(store)
    watch = WorkerWatch(configured)
    cluster.put("jobs", worker_job(COUNT, active=1))
    put_run(store, [3, 3, 3])
    with pytest.raises(RunUnfinished, match="3 of 4 chunks are in the store, Job embedder-worker is running"):
        report(store, configured, watch)
    cluster.put("jobs", worker_job(COUNT, failed="3", ended="Failed"))
    with pytest.raises(ChunksMissing, match="and 3 are missing"):
        report(store, configured, watch)
    store.delete(chunk_key(index) for index in range(COUNT))
    put_run(store, [3, 0, 3, 2], failed=1)
    merge(store, settings_for(store, COUNT))
    sound = report(store, configured, watch)
    assert describe_result(sound) == f"{store.location(RESULT_KEY)} is sound: 8 of 12 images, 4 failed"
    result = store.stat(RESULT_KEY)
    assert result is not None
    data = bytearray(store.read(RESULT_KEY))
    store.put_bytes(RESULT_KEY, bytes(data[:-4]))
    with pytest.raises(ChunkInvalid):
        report(store, configured, watch)
    data[-512 * 4 * 8 :] = bytes(512 * 4 * 8)
    store.put_bytes(RESULT_KEY, bytes(data))
    with pytest.raises(ChunkInvalid):
        report(store, configured, watch)


def test_the_report_says_how_result_and_summary_differ(cluster: ClusterDouble, store: Store) -> None:
    configured = settings(store)
    watch = WorkerWatch(configured)
    cluster.put("jobs", worker_job(COUNT, ended="Complete"))
    put_run(store, [3] * COUNT)
    merge(store, settings_for(store, COUNT))
    summary = json.loads(store.read(SUMMARY_KEY))
    store.put_bytes(SUMMARY_KEY, json.dumps(summary | {"rows_embedded": 11}).encode())
    with pytest.raises(ChunkInvalid, match=r"12 of 12 images .*summary\.json says .* 11 of 12 images .*; merge again"):
        report(store, configured, watch)
    store.put_bytes(SUMMARY_KEY, json.dumps(summary | {"rows_embedded": "many"}).encode())
    with pytest.raises(ChunkInvalid, match=r"summary\.json is not a summary of a merge: rows_embedded"):
        report(store, configured, watch)
    store.put_bytes(SUMMARY_KEY, json.dumps(summary).encode())
    assert report(store, configured, watch).summary.rows_embedded == 12


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        (WorkerPhase.UNKNOWN, "the state of Job w is unknown"),
        (WorkerPhase.ABSENT, "Job w does not exist (yet)"),
        (WorkerPhase.REMOVED, "Job w does not exist any more"),
        (WorkerPhase.SUSPENDED, "Job w is suspended"),
        (WorkerPhase.RUNNING, "Job w is running"),
        (WorkerPhase.COMPLETE, "Job w is complete"),
        (WorkerPhase.FAILED, "Job w has failed (FailedIndexes: 3 indexes)"),
    ],
)
def test_the_worker_job_has_words_for_each_state(phase: WorkerPhase, words: str) -> None:
    assert str(WorkerState("w", phase, Cause("FailedIndexes", "3 indexes"))) == words


@contextlib.contextmanager
def gate_process(store: Store, *arguments: str, **options: str) -> Iterator[subprocess.Popen[str]]:
    variables = {"run_uri": store.uri, "chunk_count": str(COUNT), "poll_seconds": "1", **options}
    program = subprocess.Popen(
        [sys.executable, "-m", "k8s.gate", *arguments],
        env=os.environ
        | {"POD_NAMESPACE": NAMESPACE}
        | {f"EMBEDDER_{name}".upper(): value for name, value in variables.items()},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


def read_event(program: subprocess.Popen[str], event: str) -> LogLine:
    assert program.stderr is not None
    for text in program.stderr:
        line = parse_line(text)
        if line is not None and line.event == event:
            return line
    raise AssertionError(f"there is no event {event}")


def test_metrics_tell_failed_chunks_from_those_that_are_still_computed(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, active=1, completed="0", failed="2"))
    put_chunks(folder, 0)
    port = free_port()
    with gate_process(folder, metrics_port=str(port)) as program:
        read_event(program, "waiting")
        waiting = scrape(port)
        put_chunks(folder, 1, 2, 3)
        assert read_event(program, "finished").values["exit_code"] == "0"
    assert waiting("embedder_run_chunks") == COUNT
    assert waiting("embedder_run_chunks_in_store") == 1
    assert waiting("embedder_run_chunks_failed") == 1


def test_the_program_waits_for_a_rerun_and_goes_on_by_itself(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, completed="0,1", failed="2,3", ended="Failed"))
    put_chunks(folder, 0, 1)
    with gate_process(folder) as program:
        waiting = read_event(program, "waiting")
        assert (waiting.values["in_store"], waiting.values["of"], waiting.values["missing"]) == ("2", "4", "2,3")
        assert f"embedder rerun --release embedder -n {NAMESPACE} --chunks 2,3" in waiting.values["message"]
        put_chunks(folder, 2, 3)
        assert read_event(program, "finished").values["exit_code"] == "0"
        assert program.wait(30) == ExitCode.OK


@pytest.mark.parametrize(("mode", "exit_code"), [("fail", ExitCode.DATA_ERROR), ("partial", ExitCode.OK)])
def test_the_program_ends_as_on_failed_chunks_says(
    cluster: ClusterDouble, folder: Store, mode: str, exit_code: ExitCode
) -> None:
    cluster.put("jobs", worker_job(COUNT, completed="0-2", failed="3", ended="Failed"))
    put_chunks(folder, 0, 1, 2)
    with gate_process(folder, on_failed_chunks=mode) as program:
        assert program.wait(30) == exit_code


def test_the_program_works_without_the_api(cluster: ClusterDouble, folder: Store) -> None:
    cluster.is_allowed = lambda _: False
    with gate_process(folder) as program:
        assert "not allowed to list jobs" in read_event(program, "api_denied").values["message"]
        put_chunks(folder, *range(COUNT))
        assert program.wait(30) == ExitCode.OK


def test_the_program_stops_on_sigterm_in_the_middle_of_a_watch(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, active=1))
    with gate_process(folder, poll_seconds="600") as program:
        read_event(program, "waiting")
        wait_for_watch(cluster)
        program.send_signal(signal.SIGTERM)
        assert read_event(program, "stopped").values["exit_code"] == "143"
        assert program.wait(30) == ExitCode.STOPPED


def test_the_program_reports_for_helm_test(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, active=1))
    with gate_process(folder, "report") as program:
        assert "0 of 4 chunks are in the store" in read_event(program, "failed").values["message"]
        assert program.wait(30) == ExitCode.TEMPORARY_FAILURE
    with gate_process(folder, "reprot") as program:
        assert program.wait(30) == ExitCode.CONFIG_ERROR


def test_the_gate_needs_neither_the_command_line_nor_the_merger() -> None:
    code = (
        "import sys, k8s.gate.__main__; print(sorted({'typer', 'h5py', 'boto3', 'torch', 'merger'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
