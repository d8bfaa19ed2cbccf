"""`embedder run` as an Indexed Job, with small programs in place of the worker and the merger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.errors import ChunkInvalid, ExitCode, SettingsError, Stopped, StoreAccessDenied
from common.exit_policy import Action, action_for, container_exit_code
from common.logs import configure_logs
from common.run.keys import FAILURES_KEY, RESULT_KEY, SUMMARY_KEY, chunk_failures_key, chunk_key
from common.run.summary import read_summary
from common.store import open_store
from embedder.local.display import LineDisplay
from embedder.local.local_run import LocalRun
from embedder.local.outcome import JobFailed, Outcome
from embedder.local.processes import Processes
from embedder.local.programs import Programs
from embedder.local.progress import Phase, RunProgress
from embedder.local.settings import LocalRunSettings
from embedder.local.supervisor import retry_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.store.contract import Store

PROGRAMS = Path(__file__).parents[1] / "programs"


@dataclass
class Bench:
    """A run of small programs, and their journal."""

    folder: Path
    run_uri: str
    progress: RunProgress | None = None

    def run(
        self,
        behaviours: dict[str, list[str]] | None = None,
        *,
        model: str = "some/model",
        on_missing_chunks: str = "refuse",
        display: type[LineDisplay] = LineDisplay,
        grace_seconds: float = 20,
        **settings: object,
    ) -> Outcome:
        defaults = {"run_uri": self.run_uri, "manifest_uri": "list.csv", "chunk_count": 3, "retry_seconds": 0}
        configured = LocalRunSettings.model_validate(defaults | settings)
        self.progress = RunProgress(configured.indexes)
        (self.folder / "logs").mkdir(exist_ok=True)
        return LocalRun(
            configured,
            store=self.store,
            environment=os.environ
            | {
                "EMBEDDER_RUN_URI": self.run_uri,
                "EMBEDDER_MANIFEST_URI": "list.csv",
                "EMBEDDER_CHUNK_COUNT": str(configured.chunk_count),
                "EMBEDDER_CHUNK_INDEXES": configured.chunk_indexes,
                "EMBEDDER_MODEL": model,
                "EMBEDDER_ON_MISSING_CHUNKS": on_missing_chunks,
                "EMBEDDER_TOP_UP": str(configured.top_up).lower(),
                "TEST_FOLDER": str(self.folder),
                "TEST_BEHAVIOURS": json.dumps(behaviours or {}),
            },
            programs=Programs(
                worker=(sys.executable, str(PROGRAMS / "worker_program.py")),
                merger=(sys.executable, str(PROGRAMS / "merger_program.py")),
            ),
            log_dir=self.folder / "logs",
            progress=self.progress,
            display=display(self.progress),
            processes=Processes(grace_seconds=grace_seconds),
        ).run()

    @property
    def store(self) -> Store:
        return open_store(self.run_uri)

    def attempts(self) -> list[str]:
        """Return the workers that were started since the last call, as `index-attempt`, in their order."""
        started = sorted(self.folder.glob("worker-*"), key=lambda path: json.loads(path.read_text())["time"])
        for path in started:
            path.unlink()
        return [path.name.removeprefix("worker-") for path in started]

    def environment_of(self, attempt: str) -> dict[str, str]:
        environment: dict[str, str] = json.loads((self.folder / f"worker-{attempt}").read_text())["environment"]
        return environment

    def has(self, key: str) -> bool:
        return self.store.stat(key) is not None


def start(bench: Bench, behaviours: dict[str, list[str]], *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAMS / "embedder_program.py"), "run", "list.csv", bench.run_uri, *options],
        env=os.environ
        | {"TEST_FOLDER": str(bench.folder), "TEST_BEHAVIOURS": json.dumps(behaviours), "TMPDIR": str(bench.folder)},
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(program: subprocess.Popen[str], word: str, *, times: int = 1) -> None:
    assert program.stderr is not None
    for line in program.stderr:
        times -= word in line
        if not times:
            return
    raise AssertionError(f"the program ended and wrote no line with {word}")


def pids(bench: Bench) -> list[int]:
    return [json.loads(path.read_text())["pid"] for path in bench.folder.glob("worker-*")]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "journal").mkdir()
    return Bench(tmp_path / "journal", str(tmp_path / "run"))


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    configure_logs()
    yield
    configure_logs()


def test_every_chunk_is_computed_once_and_then_merged(bench: Bench) -> None:
    outcome = bench.run()
    assert outcome.exit_code == ExitCode.OK
    assert outcome.merge is not None
    assert outcome.merge.message == "30 rows merged"
    assert bench.attempts() == ["0-0", "1-0", "2-0"]
    assert bench.has(RESULT_KEY)
    assert not bench.has(chunk_key(0))


@pytest.mark.slow
def test_a_run_in_a_bucket_is_run_and_resumed_like_one_in_a_folder(bench: Bench, bucket: str) -> None:
    bench.run_uri = f"s3://{bucket}/some/run"
    assert bench.run(chunk_count=2, merge=False).exit_code == ExitCode.OK
    assert bench.attempts() == ["0-0", "1-0"]
    assert bench.run(chunk_count=2).exit_code == ExitCode.OK
    assert bench.attempts() == ["0-0"]
    assert bench.has(RESULT_KEY)


def test_a_store_that_cannot_be_written_ends_the_run_before_any_worker_starts(bench: Bench) -> None:
    (bench.folder / "file").touch()
    bench.run_uri = str(bench.folder / "file")
    with pytest.raises(StoreAccessDenied):
        bench.run()
    assert bench.attempts() == []


@pytest.mark.parametrize("way", ["75", "crash", "SIGKILL", "SIGTERM"])
def test_a_fault_that_may_pass_is_retried(bench: Bench, way: str) -> None:
    assert bench.run({"0": [way]}, chunk_count=1, merge=False).exit_code == ExitCode.OK
    assert bench.attempts() == ["0-0", "0-1"]
    assert bench.has(chunk_key(0))


def test_a_chunk_whose_faults_do_not_pass_fails_after_the_limit_and_nothing_is_merged(bench: Bench) -> None:
    outcome = bench.run({"1": ["75"] * 9}, retries=2)
    assert outcome.exit_code == ExitCode.TEMPORARY_FAILURE
    assert outcome.failed.keys() == {1}
    assert outcome.failed[1].message == "the store does not answer"
    assert outcome.merge is None
    told = [bench.environment_of(f"1-{attempt}")["EMBEDDER_COUNTED_FAILURES"] for attempt in range(3)]
    assert told == ["0", "1", "2"], "each attempt is told how many have failed before it"
    assert sorted(bench.attempts()) == ["0-0", "1-0", "1-1", "1-2", "2-0"]
    assert bench.has(chunk_key(2))
    assert not bench.has(RESULT_KEY)


def test_a_chunk_that_cannot_succeed_is_not_retried_and_the_others_complete(bench: Bench) -> None:
    outcome = bench.run({"1": ["65"], "2": ["75"] * 9}, retries=1)
    assert outcome.exit_code == ExitCode.DATA_ERROR
    assert {index: ending.exit_code for index, ending in outcome.failed.items()} == {1: 65, 2: 75}
    assert sorted(bench.attempts()) == ["0-0", "1-0", "2-0", "2-1"]
    assert bench.progress is not None
    assert (bench.progress.chunks(Phase.DONE), bench.progress.chunks(Phase.FAILED)) == (1, 2)


def test_a_chunk_whose_images_failed_says_why_and_its_list_is_no_chunk(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = bench.run({"1": ["75", "fail images"]})
    failures = outcome.failed[1].failures
    assert (failures.images, failures.of, failures.limit) == ("4", "10", "20%")
    assert [(each.reason, each.images, each.share) for each in failures.reasons] == [
        ("not_found", "3", "30%"),
        ("timeout", "1", "10%"),
    ]
    assert failures.reasons[0].examples[0] == "row 1 https://example.org/1/1.jpg (it is gone)"
    assert "EMBEDDER_MAX_FAILURE_RATIO" in failures.reasons[0].advice
    assert failures.hosts == "example.org (4)"
    assert failures.listed_at == bench.store.location(chunk_failures_key(1))
    assert bench.has(chunk_failures_key(1))
    # They are shown once, in the report at the end.
    assert "example_1" not in capfd.readouterr().err
    bench.attempts()
    assert bench.run().exit_code == ExitCode.OK
    assert bench.attempts() == ["0-0", "1-0"]
    assert not bench.has(chunk_failures_key(1))


def test_a_wrong_setting_in_a_run_of_one_chunk_does_not_speak_of_others(bench: Bench) -> None:
    with pytest.raises(JobFailed) as failure:
        bench.run({"0": ["78"]}, chunk_count=1)
    assert str(failure.value) == "EMBEDDER_DTYPE is 'float8': choose float32"


def test_a_wrong_setting_ends_the_run_at_once_and_stops_the_other_workers(bench: Bench) -> None:
    with pytest.raises(JobFailed, match="'float8': choose float32") as failure:
        bench.run({"0": ["hang"], "1": ["78 while hanging 0"]}, parallelism=2)
    assert failure.value.exit_code == ExitCode.CONFIG_ERROR
    assert "chunk 1: EMBEDDER_DTYPE is 'float8'" in str(failure.value)
    assert "float8" in failure.value.log_path.read_text()
    pid = json.loads((bench.folder / "worker-0-0").read_text())["pid"]
    assert not is_alive(pid)
    assert sorted(bench.attempts()) == ["0-0", "1-0"]


def test_the_merge_is_retried_like_a_chunk(bench: Bench) -> None:
    outcome = bench.run({"merge": ["75"]}, chunk_count=1)
    assert outcome.exit_code == ExitCode.OK
    assert len(list(bench.folder.glob("merger-*"))) == 2


def test_a_merge_that_cannot_succeed_gives_the_run_its_exit_code(bench: Bench) -> None:
    outcome = bench.run({"merge": ["65"]}, chunk_count=1)
    assert outcome.exit_code == ExitCode.DATA_ERROR
    assert outcome.failed == {}
    assert outcome.merge is not None
    assert outcome.merge.message == "the merge went wrong"
    assert len(list(bench.folder.glob("merger-*"))) == 1


def test_only_the_chunks_asked_for_are_computed_and_they_keep_their_numbers(bench: Bench) -> None:
    bench.run(chunk_indexes="0,2", merge=False)
    assert "EMBEDDER_CHUNK_INDEXES" not in bench.environment_of("2-0")
    assert bench.attempts() == ["0-0", "2-0"]
    assert [bench.has(chunk_key(index)) for index in range(3)] == [True, False, True]


def test_workers_that_run_at_the_same_time_share_the_cores_unless_the_caller_says_how(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    bench.run(chunk_count=1, parallelism=64, merge=False)
    assert bench.environment_of("0-0")["OMP_NUM_THREADS"] == "1"
    assert bench.environment_of("0-0")["EMBEDDER_DECODE_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    bench.run(chunk_count=2, chunk_indexes="1", parallelism=64, merge=False)
    assert bench.environment_of("1-0")["OMP_NUM_THREADS"] == "7"


def test_a_run_continues_from_what_is_in_the_store_and_starts_one_worker_to_compare_settings(bench: Bench) -> None:
    bench.run({"2": ["65"]})
    bench.attempts()
    assert bench.run().exit_code == ExitCode.OK
    assert bench.attempts() == ["0-0", "2-0"]
    assert bench.progress is not None
    assert bench.progress.settled == 30
    assert bench.has(RESULT_KEY)


def test_a_finished_run_starts_one_worker_and_the_merger_to_say_so(bench: Bench) -> None:
    bench.run()
    bench.attempts()
    outcome = bench.run()
    assert outcome.merge is not None
    assert outcome.merge.message == "the run is finished"
    assert bench.attempts() == ["0-0"]


@pytest.mark.parametrize("merge", [True, False])
def test_another_model_is_noticed_when_the_run_has_chunks_or_is_finished(bench: Bench, merge: bool) -> None:
    bench.run(merge=merge)
    bench.attempts()
    with pytest.raises(JobFailed, match="was made with"):
        bench.run(model="another/model")
    assert bench.attempts() == ["0-0"]


def test_a_chunk_of_another_model_among_the_right_ones_is_noticed(bench: Bench) -> None:
    bench.run(chunk_indexes="0-1", merge=False)
    bench.run(chunk_indexes="2", merge=False, model="another/model")
    bench.attempts()
    with pytest.raises(JobFailed, match=r"^chunk 2: .* was made with"):
        bench.run()


def test_a_damaged_chunk_is_left_to_its_worker(bench: Bench) -> None:
    bench.run(merge=False)
    bench.attempts()
    bench.store.put_bytes(chunk_key(2), b"half a file")
    outcome = bench.run()
    assert "2-0" in bench.attempts()
    assert outcome.failed.keys() == {2}


def test_a_result_without_a_summary_is_not_taken_for_a_finished_run(bench: Bench, tmp_path: Path) -> None:
    bench.run(merge=False)
    other = Bench(bench.folder, str(tmp_path / "another run"))
    other.run(model="another/model")
    bench.store.put_bytes(RESULT_KEY, other.store.read(RESULT_KEY))  # as a merge leaves it that was killed
    bench.store.delete([chunk_key(2)])
    bench.attempts()
    with pytest.raises(JobFailed, match=r"^chunk 2: Images_Embedded\.h5 was made with model another/model"):
        bench.run()
    assert bench.attempts() == ["0-0", "2-0"]
    assert not bench.has(SUMMARY_KEY)


def test_a_chunk_that_was_not_asked_for_is_not_the_reference_chunk(bench: Bench) -> None:
    bench.run(chunk_indexes="0", merge=False)
    bench.attempts()
    with pytest.raises(JobFailed, match="float8"):
        bench.run({"1": ["hang"], "2": ["78 while hanging 1"]}, chunk_indexes="1-2", parallelism=2)


def test_chunks_that_a_partial_result_lacks_are_computed(bench: Bench) -> None:
    assert bench.run(chunk_indexes="0", on_missing_chunks="partial").exit_code == ExitCode.OK
    summary = read_summary(bench.store)
    assert summary is not None
    assert (summary.rows_embedded, summary.missing) == (10, [1, 2])
    bench.attempts()
    bench.run(chunk_indexes="1-2", merge=False)
    assert bench.attempts() == ["1-0", "2-0"]


def test_what_a_worker_writes_is_in_its_log_and_its_warnings_are_shown(bench: Bench, tmp_path: Path) -> None:
    with start(bench, {"0": ["warn"]}, "--log-dir", str(tmp_path / "logs")) as program:
        _, said = program.communicate()
    log = (tmp_path / "logs" / "chunk-0-attempt-1.log").read_text()
    assert "embedded chunk=0 images=10 of=10" in log
    assert " warning slow_source chunk=0 host=example.org wait_s=30\n" in said
    assert " info finished chunk=0 message=" in said
    assert "embedded chunk=0" not in said


def test_a_worker_without_a_last_word_is_reported_with_its_last_line_and_cannot_steer_the_terminal(
    bench: Bench,
) -> None:
    ending = bench.run({"0": ["crash"]}, chunk_count=1, retries=0).failed[0]
    assert ending.exit_code == 1
    assert "without a last word; its last line: Fatal:" in ending.message
    assert "no such instruction" in ending.message
    assert "\x1b" not in ending.message


def test_a_line_of_megabytes_is_neither_lost_nor_in_the_way(bench: Bench) -> None:
    assert bench.run({"0": ["flood"]}, chunk_count=1, merge=False).exit_code == ExitCode.OK
    assert (bench.folder / "logs" / "chunk-0-attempt-1.log").stat().st_size > 3_000_000


# Topping up


def test_a_top_up_starts_workers_for_the_chunks_with_such_failures_alone_and_merges(bench: Bench) -> None:
    bench.run({"1": ["defer 2"], "2": ["lose 1"]}, merge=False)
    bench.attempts()
    outcome = bench.run(top_up=True)
    assert bench.environment_of("1-0")["EMBEDDER_TOP_UP"] == "true"
    assert bench.attempts() == ["1-0"]
    assert outcome.merge is not None
    assert outcome.merge.message == "32 rows merged"
    assert bench.progress is not None
    assert bench.progress.settled == 33


def test_the_reasons_choose_the_chunks_of_a_top_up(bench: Bench) -> None:
    bench.run({"1": ["defer 2"], "2": ["lose 1"]}, merge=False)
    bench.attempts()
    bench.run(merge=False, top_up_reasons="not_found, timeout", top_up=True)
    assert bench.attempts() == ["2-0"]


def test_a_top_up_with_nothing_to_fetch_starts_no_worker_and_merges_what_is_not_merged(bench: Bench) -> None:
    bench.run({"2": ["lose 1"]}, merge=False)
    bench.attempts()
    outcome = bench.run(top_up=True)
    assert bench.attempts() == []
    assert outcome.merge is not None
    assert outcome.has_nothing_to_fetch
    again = bench.run(top_up=True)
    assert (again.merge, again.exit_code, again.has_nothing_to_fetch) == (None, ExitCode.OK, True)
    assert bench.attempts() == []


def test_a_top_up_computes_a_chunk_that_is_missing_beside_one_that_compares_the_settings(bench: Bench) -> None:
    bench.run(chunk_indexes="0-1", merge=False)
    bench.attempts()
    assert bench.run(top_up=True).exit_code == ExitCode.OK
    assert bench.attempts() == ["0-0", "2-0"]
    assert bench.has(RESULT_KEY)


def test_a_top_up_that_fails_for_one_chunk_keeps_its_rows_and_merges_the_others(bench: Bench) -> None:
    bench.run({"1": ["defer 2"], "2": ["defer 1"]}, merge=False)
    bench.attempts()
    outcome = bench.run({"2": ["65"]}, top_up=True)
    assert outcome.exit_code == ExitCode.DATA_ERROR
    assert outcome.merge is not None
    assert outcome.merge.message == "32 rows merged"


def test_a_top_up_after_a_chunk_that_is_missing_failed_merges_nothing(bench: Bench) -> None:
    bench.run({"1": ["defer 2"]}, merge=False, chunk_indexes="0-1")
    outcome = bench.run({"2": ["65"]}, top_up=True)
    assert outcome.exit_code == ExitCode.DATA_ERROR
    assert outcome.merge is None


def test_a_top_up_of_only_some_chunks_leaves_the_others(bench: Bench) -> None:
    bench.run({"1": ["defer 2"], "2": ["defer 1"]}, merge=False)
    bench.attempts()
    bench.run(chunk_indexes="2", merge=False, top_up=True)
    assert bench.attempts() == ["2-0"]


@pytest.mark.parametrize("top_up", [True, False])
def test_a_merge_after_a_top_up_that_was_killed_is_completed_before_any_worker_starts(
    bench: Bench, top_up: bool
) -> None:
    bench.run({"1": ["lose 2"]}, merge=False)
    topped_up = bench.store.read(chunk_key(1))
    bench.run()
    bench.attempts()
    # The result is replaced, and the summary is not.
    bench.store.put_bytes(chunk_key(1), topped_up)
    bench.store.delete([SUMMARY_KEY])
    with pytest.raises(SettingsError, match=r"a merge of the run in .* was interrupted"):
        bench.run(top_up=top_up, merge=False)
    outcome = bench.run(top_up=top_up)
    assert outcome.exit_code == ExitCode.OK
    assert bench.attempts() == ([] if top_up else ["0-0"])
    assert bench.has(SUMMARY_KEY)
    assert not bench.has(chunk_key(1))


@pytest.mark.parametrize(
    ("ledger", "sentence"),
    [
        (None, r"has 0 rows, and summary\.json counts 2 failed images"),
        (b"chunk,row,id,url,reason,detail\n1,10,,https://example.org/a.jpg,deferred,\n", "has 1 rows"),
        (b"a list of something else\n", "is not the ledger of a run: its first line is 'a list of something else'"),
    ],
)
def test_a_top_up_does_not_believe_a_ledger_that_is_not_whole(
    bench: Bench, ledger: bytes | None, sentence: str
) -> None:
    bench.run({"1": ["defer 2"]})
    bench.attempts()
    bench.store.delete([FAILURES_KEY])
    if ledger is not None:
        bench.store.put_bytes(FAILURES_KEY, ledger)
    with pytest.raises(ChunkInvalid, match=sentence):
        bench.run(top_up=True)
    assert bench.attempts() == []


def test_a_slow_site_is_shown_with_the_progress_and_not_as_a_line_of_its_worker(bench: Bench) -> None:
    with start(bench, {"0": ["slow"]}) as program:
        _, said = program.communicate()
    assert program.returncode == 0
    assert "slow_site" not in said


# Stopping


def test_a_signal_stops_the_workers_and_the_same_command_goes_on(bench: Bench) -> None:
    with start(bench, {"1": ["hang"], "2": ["hang"]}, "--chunks", "3", "--parallelism", "2") as program:
        read_until(program, "hanging", times=2)
        program.send_signal(signal.SIGTERM)
        _, said = program.communicate()
    assert program.returncode == 143
    assert "1 of 3 chunks are in the store, and the same command continues from there" in said
    assert not any(is_alive(pid) for pid in pids(bench))
    with start(bench, {}, "--chunks", "3") as again:
        assert again.wait() == 0


def test_a_second_signal_kills_workers_that_do_not_stop(bench: Bench) -> None:
    with start(bench, {"0": ["ignore"]}) as program:
        read_until(program, "hanging")
        program.send_signal(signal.SIGINT)
        read_until(program, "stopping")
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130
    assert not any(is_alive(pid) for pid in pids(bench))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_no_worker_outlives_a_run_that_was_killed(bench: Bench) -> None:
    with start(bench, {"0": ["ignore"]}) as program:
        read_until(program, "hanging")
        program.kill()
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in pids(bench)) and time.monotonic() < deadline:
        time.sleep(0.01)  # only the new parent of a process learns of its end
    assert not any(is_alive(pid) for pid in pids(bench))


class StopWhenItHangs(LineDisplay):
    def forward(self, line: str) -> None:
        if "hanging" in line:
            signal.raise_signal(signal.SIGTERM)


def test_workers_that_do_not_stop_in_the_grace_period_are_killed(bench: Bench) -> None:
    with pytest.raises(Stopped, match="SIGTERM"):
        bench.run({"0": ["ignore"]}, display=StopWhenItHangs, grace_seconds=0.1)
    assert not any(is_alive(pid) for pid in pids(bench))


# The policy


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (0, Action.SUCCEED),
        (65, Action.FAIL_INDEX),
        (78, Action.FAIL_JOB),
        (1, Action.RETRY),
        (75, Action.RETRY),
        (137, Action.RETRY),
        (143, Action.RETRY),
    ],
)
def test_exit_codes_mean_what_the_jobs_policy_says(code: int, action: Action) -> None:
    assert action_for(code) is action


def test_a_killed_process_has_the_exit_code_that_a_container_would_have() -> None:
    assert container_exit_code(-signal.SIGKILL) == 137
    assert container_exit_code(75) == 75


def test_pauses_double_up_to_the_limit_and_differ_between_runs() -> None:
    policy = retry_policy(retries=3, retry_seconds=1)
    assert policy.attempts == 4
    for failures, longest in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)]:
        pauses = {policy.pause_seconds(failures) for _ in range(20)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
