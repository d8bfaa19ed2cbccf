"""The gate of a merge that follows a top-up, with real stores and an API that misbehaves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from common.logs import parse_line
from common.run.keys import EARLIER_RESULT_KEY, RESULT_KEY, chunk_key
from k8s.gate.__main__ import wait
from k8s.gate.gate import AllChunksPresent
from k8s.gate.settings import GateSettings
from k8s.gate.watch import WorkerWatch
from tests.k8s.cluster_double import NAMESPACE, ClusterDouble, Fault, Request
from tests.k8s.gate.waiting import COUNT, finish_run, wait_for_watch
from tests.k8s.release_objects import worker_job

if TYPE_CHECKING:
    import io

    from common.store.contract import Store
    from k8s.gate.gate import Opening

JOB = "embedder-topup-1"


def top_up_job(*, ended: str = "", **status: str) -> dict[str, object]:
    return worker_job(COUNT, name=JOB, component="topup", ended=ended, **status)  # type: ignore[arg-type]


class RunningGate:
    """The gate of a top-up's merge, in a thread of its own."""

    def __init__(self, store: Store, **options: object) -> None:
        defaults = {"run_uri": store.uri, "chunk_count": COUNT, "top_up_job": JOB, "poll_seconds": 600}
        times = {"settle_seconds": 0, "reminder_seconds": 1000}
        self._settings = GateSettings.model_validate(defaults | times | {"POD_NAMESPACE": NAMESPACE} | options)
        self._store = store
        self.openings: list[Opening] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.openings.append(wait(self._settings, self._store, WorkerWatch(self._settings)))

    def end(self) -> Opening:
        self._thread.join(30)
        assert self.openings, "the gate still waits"
        return self.openings[0]


@pytest.mark.parametrize("end", ["Complete", "Failed"])
def test_a_finished_run_is_not_taken_for_the_end_of_the_top_up(
    cluster: ClusterDouble, folder: Store, logs: io.StringIO, end: str
) -> None:
    finish_run(folder)
    cluster.put("jobs", worker_job(COUNT, completed="0-3", ended="Complete"))
    cluster.put("jobs", top_up_job())
    gate = RunningGate(folder)
    wait_for_watch(cluster)
    assert not gate.openings
    cluster.put("jobs", top_up_job(ended=end))
    assert gate.end() == AllChunksPresent(COUNT)
    said = [line for text in logs.getvalue().splitlines() if (line := parse_line(text)) is not None]
    first, second = (line for line in said if line.event in {"waiting", "top_up_ended"})
    assert (first.event, second.event) == ("waiting", "top_up_ended")
    assert first.values["message"] == f"Job {JOB} is running; the merge follows when it has ended"


def test_the_gate_of_a_top_up_asks_for_no_more_than_its_role_allows(cluster: ClusterDouble, folder: Store) -> None:
    allowed = {f"metadata.name={name}" for name in (JOB, "embedder-worker")}

    def is_allowed(request: Request) -> bool:
        return request.resource == "jobs" and request.query.get("fieldSelector") in allowed

    cluster.is_allowed = is_allowed
    finish_run(folder)
    cluster.put("jobs", top_up_job(ended="Complete"))
    assert RunningGate(folder).end() == AllChunksPresent(COUNT)


def test_chunks_that_are_missing_after_the_top_up_are_waited_for(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", worker_job(COUNT, completed="0-2", active=1))
    cluster.put("jobs", top_up_job(ended="Complete"))
    for chunk in range(COUNT - 1):
        folder.put_bytes(chunk_key(chunk), b"a chunk")
    gate = RunningGate(folder, poll_seconds=0.2)
    wait_for_watch(cluster, more_than=2)
    assert not gate.openings
    folder.put_bytes(chunk_key(COUNT - 1), b"a chunk")
    gate.end()


def test_a_gate_that_may_not_read_the_top_up_says_what_it_needs_and_waits(
    cluster: ClusterDouble, folder: Store, logs: io.StringIO
) -> None:
    finish_run(folder)
    cluster.put("jobs", top_up_job(ended="Complete"))
    cluster.is_allowed = lambda _: False
    gate = RunningGate(folder, poll_seconds=0.2)
    cluster.wait_for(lambda double: double.count("list", "jobs") > 2)
    assert not gate.openings
    assert f"the merge waits until this pod may get, list and watch Job {JOB} (rbac.create)" in logs.getvalue()
    cluster.is_allowed = lambda _: True
    gate.end()


def test_an_api_that_fails_and_watches_that_break_off_are_waited_out(cluster: ClusterDouble, folder: Store) -> None:
    finish_run(folder)
    cluster.put("jobs", top_up_job())
    cluster.faults += [("list", Fault(503)), ("watch", Fault(0))]
    gate = RunningGate(folder)
    wait_for_watch(cluster)
    cluster.drop_streams()
    cluster.forget_history()
    wait_for_watch(cluster, more_than=1)
    cluster.put("jobs", top_up_job(ended="Complete"))
    gate.end()


def test_a_top_up_that_was_deleted_is_not_waited_for_for_ever(cluster: ClusterDouble, folder: Store) -> None:
    finish_run(folder)
    cluster.put("jobs", top_up_job())
    gate = RunningGate(folder, absence_seconds=0.5, poll_seconds=0.2)
    wait_for_watch(cluster)
    cluster.delete("jobs", JOB)
    gate.end()


def test_a_merge_that_was_killed_halfway_is_completed_by_the_next_one(cluster: ClusterDouble, folder: Store) -> None:
    finish_run(folder)
    cluster.put("jobs", worker_job(COUNT, completed="0-3", ended="Complete"))
    cluster.put("jobs", top_up_job(ended="Complete"))
    folder.put_bytes(chunk_key(2), b"a chunk of the top-up")
    # The result has been replaced, its summary has not, and the chunks that did not change are in the earlier result.
    folder.put_bytes(EARLIER_RESULT_KEY, folder.read(RESULT_KEY))
    folder.put_bytes(RESULT_KEY, b"the result that was not verified", overwrite=True)
    assert RunningGate(folder).end() == AllChunksPresent(COUNT)


def test_a_shared_folder_is_given_time_to_show_the_new_chunks(cluster: ClusterDouble, folder: Store) -> None:
    finish_run(folder)
    cluster.put("jobs", top_up_job(ended="Complete"))
    gate = RunningGate(folder, settle_seconds=600)
    cluster.wait_for(lambda double: double.count("list", "jobs") > 0)
    assert not gate.openings
