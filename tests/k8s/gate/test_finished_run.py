"""The gate of the Job that builds the index, with real stores and an API that misbehaves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from common.errors import ExitCode, ResultMissing, SettingsError
from common.run.keys import EARLIER_RESULT_KEY, RESULT_KEY, SUMMARY_KEY
from k8s.gate.finished_run import FinishedRunGate
from k8s.gate.settings import GateSettings
from tests.k8s.cluster_double import NAMESPACE, ClusterDouble, Fault, Request
from tests.k8s.gate.waiting import COUNT, finish_run, wait_for_watch
from tests.k8s.release_objects import merge_job

if TYPE_CHECKING:
    import io

    from common.run.state import FinishedRun
    from common.store.contract import Store

MERGE = "embedder-merge"


class RunningGate:
    """The gate of an index, in a thread of its own."""

    def __init__(self, store: Store, **options: object) -> None:
        defaults = {"run_uri": store.uri, "chunk_count": COUNT, "merge_job": MERGE, "poll_seconds": 0.2}
        times = {"settle_seconds": 0, "reminder_seconds": 1000}
        self._gate = FinishedRunGate(
            GateSettings.model_validate(defaults | times | {"POD_NAMESPACE": NAMESPACE} | options), store
        )
        self.outcomes: list[FinishedRun | Exception] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.outcomes.append(self._gate.wait())
        except Exception as error:  # noqa: BLE001 - raised again in the test's own thread
            self.outcomes.append(error)

    def end(self) -> FinishedRun:
        self._thread.join(30)
        assert self.outcomes, "the gate still waits"
        if isinstance(self.outcomes[0], Exception):
            raise self.outcomes[0]
        return self.outcomes[0]


def test_it_opens_when_the_merge_is_complete(cluster: ClusterDouble, store: Store, logs: io.StringIO) -> None:
    cluster.put("jobs", merge_job())
    gate = RunningGate(store)
    wait_for_watch(cluster)
    assert "the index follows when the merge has ended" in logs.getvalue()
    finish_run(store)
    assert not gate.outcomes
    cluster.put("jobs", merge_job(ended="Complete"))
    assert gate.end().summary.rows_embedded == 12


def test_it_opens_at_once_for_a_run_that_was_merged_before(cluster: ClusterDouble, folder: Store) -> None:
    finish_run(folder)
    cluster.put("jobs", merge_job(ended="Complete"))
    assert RunningGate(folder).end().summary.chunk_count == COUNT


def test_a_result_that_is_there_is_not_indexed_while_a_merge_may_replace_it(
    cluster: ClusterDouble, folder: Store
) -> None:
    finish_run(folder)
    cluster.put("jobs", merge_job())
    gate = RunningGate(folder)
    wait_for_watch(cluster, more_than=1)
    assert not gate.outcomes
    cluster.put("jobs", merge_job(ended="Complete"))
    gate.end()


def test_a_merge_that_failed_without_a_result_ends_it_for_good(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", merge_job())
    gate = RunningGate(folder)
    wait_for_watch(cluster)
    cluster.put("jobs", merge_job(ended="Failed"))
    with pytest.raises(
        ResultMissing, match=rf"Job {MERGE} has failed .* not finished; see embedder status .* helm upgrade"
    ) as raised:
        gate.end()
    assert raised.value.exit_code == ExitCode.DATA_ERROR


def test_a_merge_that_failed_after_the_result_was_finished_is_indexed(cluster: ClusterDouble, folder: Store) -> None:
    finish_run(folder)
    cluster.put("jobs", merge_job(ended="Failed"))
    assert RunningGate(folder).end().summary.rows_embedded == 12


def test_a_merge_that_was_deleted_is_not_waited_for_for_ever(cluster: ClusterDouble, folder: Store) -> None:
    cluster.put("jobs", merge_job())
    gate = RunningGate(folder, absence_seconds=0.5)
    wait_for_watch(cluster)
    cluster.delete("jobs", MERGE)
    with pytest.raises(ResultMissing, match=f"Job {MERGE} does not exist any more"):
        gate.end()


def test_a_merge_that_does_not_exist_yet_is_waited_for(cluster: ClusterDouble, folder: Store) -> None:
    gate = RunningGate(folder)
    wait_for_watch(cluster, more_than=1)
    assert not gate.outcomes
    finish_run(folder)
    cluster.put("jobs", merge_job(ended="Complete"))
    gate.end()


def test_without_access_to_the_api_a_finished_run_is_enough(
    cluster: ClusterDouble, folder: Store, logs: io.StringIO
) -> None:
    cluster.is_allowed = lambda _: False
    gate = RunningGate(folder)
    cluster.wait_for(lambda double: double.count("list", "jobs") > 2)
    assert not gate.outcomes
    finish_run(folder)
    assert gate.end().summary.rows_embedded == 12
    assert "the index is built of the result that is there" in logs.getvalue()


def test_after_a_top_up_the_run_that_was_finished_before_is_not_enough(
    cluster: ClusterDouble, folder: Store, logs: io.StringIO
) -> None:
    finish_run(folder)
    cluster.put("jobs", merge_job(ended="Complete"))
    cluster.is_allowed = lambda _: False
    gate = RunningGate(folder, top_up_job="embedder-topup-1")
    cluster.wait_for(lambda double: double.count("list", "jobs") > 2)
    assert not gate.outcomes
    assert f"the index waits until this pod may get, list and watch Job {MERGE} (rbac.create)" in logs.getvalue()
    cluster.is_allowed = lambda _: True
    gate.end()


def test_a_merge_that_stopped_halfway_leaves_nothing_to_index(cluster: ClusterDouble, folder: Store) -> None:
    finish_run(folder)
    # The result has been replaced, and its summary has not.
    folder.put_bytes(EARLIER_RESULT_KEY, folder.read(RESULT_KEY))
    folder.put_bytes(RESULT_KEY, b"the result that was not verified", overwrite=True)
    cluster.put("jobs", merge_job(ended="Failed"))
    with pytest.raises(ResultMissing):
        RunningGate(folder).end()


def test_a_shared_folder_is_given_time_to_show_the_result(cluster: ClusterDouble, folder: Store) -> None:
    finish_run(folder)
    summary = folder.read(SUMMARY_KEY)
    folder.delete([SUMMARY_KEY])
    cluster.put("jobs", merge_job(ended="Complete"))
    gate = RunningGate(folder, settle_seconds=2)
    cluster.wait_for(lambda double: double.count("list", "jobs") > 0)
    assert not gate.outcomes
    folder.put_bytes(SUMMARY_KEY, summary)
    gate.end()


def test_the_gate_of_an_index_waits_out_an_api_that_fails_and_watches_that_break_off(
    cluster: ClusterDouble, folder: Store
) -> None:
    cluster.put("jobs", merge_job())
    cluster.faults += [("list", Fault(503)), ("watch", Fault(0))]
    gate = RunningGate(folder)
    wait_for_watch(cluster)
    cluster.drop_streams()
    cluster.forget_history()
    wait_for_watch(cluster, more_than=1)
    finish_run(folder)
    cluster.put("jobs", merge_job(ended="Complete"))
    gate.end()


def test_it_asks_for_no_more_than_its_role_allows(cluster: ClusterDouble, folder: Store) -> None:
    def is_allowed(request: Request) -> bool:
        return request.resource == "jobs" and request.query.get("fieldSelector") == f"metadata.name={MERGE}"

    cluster.is_allowed = is_allowed
    finish_run(folder)
    cluster.put("jobs", merge_job(ended="Complete"))
    RunningGate(folder).end()


def test_a_gate_that_is_told_no_merge_says_so(folder: Store) -> None:
    with pytest.raises(SettingsError, match="EMBEDDER_MERGE_JOB is not set"):
        RunningGate(folder, merge_job="")


def test_the_program_says_what_can_be_indexed(cluster: ClusterDouble, folder: Store) -> None:
    finish_run(folder)
    cluster.put("jobs", merge_job(ended="Complete"))
    variables = {"RUN_URI": folder.uri, "CHUNK_COUNT": str(COUNT), "MERGE_JOB": MERGE, "SETTLE_SECONDS": "0"}
    environment = {f"EMBEDDER_{name}": value for name, value in variables.items()}
    ended = subprocess.run(
        [sys.executable, "-m", "k8s.gate", "index"],
        env=os.environ | environment | {"POD_NAMESPACE": NAMESPACE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "the run is finished: 12 rows can be indexed" in ended.stderr
