"""The console script in a pipe and on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import get_type_hints

import pytest

from common.errors import SettingsError
from common.format.reasons import REASON_HELP, Reason
from common.logs import parse_line
from common.settings import read_settings, settings_of
from embedder.local.command import EXAMPLES, run
from embedder.local.report import EXPLAINED_CHUNKS
from embedder.local.settings import (
    SETTABLE,
    LocalRunSettings,
    environment_of,
    worker_environment,
)
from merger.settings import MergerSettings
from worker.failure_advice import ADVICE
from worker.memory import WORKER_MALLOC
from worker.settings import WorkerSettings

EMBEDDER = [sys.executable, str(Path(__file__).parent / "programs" / "embedder_program.py")]
SETTINGS = settings_of(WorkerSettings) | settings_of(MergerSettings) | settings_of(LocalRunSettings)


def embedder(
    folder: Path, *arguments: str, behaviours: dict[str, list[str]] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the console script in `folder`, its temporary files in `folder/tmp`."""
    for name in ("journal", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    return subprocess.run(
        [*EMBEDDER, *arguments],
        cwd=folder,
        env=os.environ
        | {"TEST_FOLDER": str(folder / "journal"), "TEST_BEHAVIOURS": json.dumps(behaviours or {})}
        | {"TMPDIR": str(folder / "tmp"), "COLUMNS": "80"}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def on_terminal(folder: Path, *arguments: str, width: int = 80, behaviours: dict[str, list[str]] | None = None) -> str:
    """Return everything that the console script writes to a terminal of that width."""
    (folder / "journal").mkdir(exist_ok=True)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    environment |= {"TEST_FOLDER": str(folder / "journal"), "TEST_BEHAVIOURS": json.dumps(behaviours or {})}
    environment |= {"TERM": "xterm-256color"}
    with subprocess.Popen(
        [*EMBEDDER, *arguments], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        written = b""
        try:
            while data := os.read(ours, 65_536):
                written += data
        except OSError:  # on Linux, the other side has closed the terminal
            pass
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())


# Running


def test_a_run_in_a_pipe_logs_lines_and_ends_with_the_result_and_how_to_open_it(tmp_path: Path) -> None:
    done = embedder(tmp_path, "run", "list.csv", "out", "--chunks", "2", behaviours={"1": ["lose 3"]})
    assert done.returncode == 0
    lines = [parse_line(line) for line in done.stderr.splitlines()]
    assert [line.event if line else None for line in lines] == ["finished", "finished", "merged"]
    assert "20 of 23 images embedded" in done.stdout
    assert f"  3 not_found: {REASON_HELP[Reason.NOT_FOUND]}\n" in done.stdout
    assert "failures  out/failures.csv" in done.stdout
    assert "import h5py; result = h5py.File('out/Images_Embedded.h5')" in done.stdout
    assert '\n  embedder search out "two dogs on a beach"\n  embedder explore out\n' in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_run_on_a_terminal_shows_a_bar_and_leaves_the_result(tmp_path: Path) -> None:
    shown = on_terminal(tmp_path, "run", "list.csv", "out", "--chunks", "2", behaviours={"1": ["lose 3"]})
    assert "━━━" in shown
    assert "of 2 chunks done" in shown
    assert "chunk 1 finished  10 images embedded" in shown
    assert "20 of 23 images embedded" in shown
    assert "exit_code=0" not in shown


@pytest.mark.slow
def test_failed_chunks_are_reported_with_their_logs_and_the_command_that_continues(tmp_path: Path) -> None:
    command = ["run", "list with spaces.csv", "out", "--chunks", "3", "--set", "retry_seconds=0", "--retries", "1"]
    done = embedder(tmp_path, *command, behaviours={"0": ["75", "75"], "2": ["65"]})
    assert done.returncode == 65
    assert "chunk 0 failed with exit code 75: the store does not answer\n" in done.stderr
    assert "chunk 2 failed with exit code 65: 3 of 10 images failed, the limit is 2; look at the sources" in done.stderr
    assert "embedder run 'list with spaces.csv' out --chunks 3" in done.stderr
    logs = [Path(line.removeprefix("  its log: ")) for line in done.stderr.splitlines() if "its log: " in line]
    assert [log.name for log in logs] == ["chunk-0-attempt-2.log", "chunk-2-attempt-1.log"]
    assert "the limit is 2" in logs[1].read_text()
    assert not (tmp_path / "out" / "Images_Embedded.h5").exists()
    assert embedder(tmp_path, *command).returncode == 0


@pytest.mark.parametrize("chunks", [1, 5])
def test_a_chunk_whose_images_failed_is_reported_with_reasons_examples_and_what_helps(
    tmp_path: Path, chunks: int
) -> None:
    behaviours = {str(index): ["fail images"] for index in range(chunks)}
    done = embedder(tmp_path, "run", "list.csv", "out", "--chunks", str(chunks), behaviours=behaviours)
    assert done.returncode == 65
    report = done.stderr[done.stderr.index("embedding failed" if chunks == 1 else "chunk 0 failed") :].splitlines()
    name = "embedding" if chunks == 1 else "chunk 0"
    assert report[:9] == [
        f"{name} failed with exit code 65: 4 of 10 images failed so far, the limit is 20%",
        f"  3 not_found (30%): {ADVICE[Reason.NOT_FOUND]}",
        *(f"    row {row} https://example.org/0/{row}.jpg (it is gone)" for row in (1, 2, 3)),
        f"  1 timeout (10%): {ADVICE[Reason.TIMEOUT]}",
        "    row 0 https://example.org/0/0.jpg (it is gone)",
        "  hosts with the most failures: example.org (4)",
        "  all failed images: out/chunks/failures_0.csv",
    ]
    assert (tmp_path / "out" / "chunks" / "failures_0.csv").exists()
    # Of many failed chunks, the first ones stand for the others.
    assert sum("hosts with the most" in each for each in report) == min(chunks, EXPLAINED_CHUNKS)
    assert sum("all failed images" in each for each in report) == chunks
    # With one chunk nothing is in the store, so a changed list goes on in the same place.
    assert ("choose another place for the run" in done.stderr) == (chunks > 1)
    if chunks == 1:
        assert "Every chunk" not in done.stderr
        assert not [each for each in report if re.search(r"(?<![-/\w])chunks?\b(?![-/])", each)]


def test_a_setting_that_no_worker_accepts_is_one_sentence_and_a_log(tmp_path: Path) -> None:
    done = embedder(tmp_path, "run", "list.csv", "out", behaviours={"0": ["78"]})
    assert done.returncode == 78
    assert "EMBEDDER_DTYPE is 'float8': choose float32" in done.stderr
    assert "Traceback" not in done.stderr
    assert "chunk-0-attempt-1.log" in done.stderr


def test_a_run_with_untrained_weights_says_so_at_its_start_and_at_its_end(tmp_path: Path) -> None:
    done = embedder(tmp_path, "run", "list.csv", "out", EMBEDDER_MODEL="untrained")
    assert "the vectors mean NOTHING" in done.stderr.splitlines()[0]
    assert "the vectors mean NOTHING" in done.stdout


def test_a_run_without_a_merge_says_where_its_chunks_are(tmp_path: Path) -> None:
    done = embedder(tmp_path, "run", "list.csv", "out", "--no-merge")
    assert done.returncode == 0
    assert "the chunks are in out/chunks" in done.stdout
    assert (tmp_path / "out" / "chunks" / "Images_Embedded_0.h5").exists()


def test_a_setting_without_an_option_comes_from_the_environment(tmp_path: Path) -> None:
    done = embedder(
        tmp_path,
        *("run", "--chunks", "2", "--keep-chunks"),
        EMBEDDER_MANIFEST_URI="list.csv",
        EMBEDDER_RUN_URI="out",
        EMBEDDER_CHUNK_COUNT="7",
    )
    assert done.returncode == 0
    kept = sorted(path.name for path in (tmp_path / "out" / "chunks").iterdir())
    assert kept == ["Images_Embedded_0.h5", "Images_Embedded_1.h5"]


def test_a_run_says_what_fetches_again_what_may_pass_and_the_command_does_so(tmp_path: Path) -> None:
    command = ["run", "a list.csv", "out", "--chunks", "2", "--no-merge"]
    done = embedder(tmp_path, *command, behaviours={"0": ["defer 1"], "1": ["defer 2"]})
    assert done.stdout.endswith(
        "\n3 images failed for a reason that may pass (deferred 3). This command fetches them again, and nothing else:"
        "\n\n  embedder run 'a list.csv' out --chunks 2 --no-merge --top-up\n\n"
    )
    # The number of chunks is that of the run.
    done = embedder(tmp_path, "run", "a list.csv", "out", "--top-up")
    assert done.returncode == 0, done.stderr
    assert "3 images are fetched again (deferred 3), of chunks 0,1" in done.stderr
    assert "23 of 23 images embedded" in done.stdout
    assert "may pass" not in done.stdout
    done = embedder(tmp_path, "run", "a list.csv", "out", "--top-up")
    assert done.returncode == 0
    assert done.stdout == (
        "nothing to fetch again: no image of the run in out failed with connection_failed, deferred, rate_limited, "
        "server_error, timeout\n"
    )
    assert done.stderr == ""


def test_a_merged_run_says_what_fetches_again_what_may_pass_as_often_as_it_is_asked(tmp_path: Path) -> None:
    command = ["run", "list.csv", "out"]
    for _ in range(2):  # the second time it computes nothing
        done = embedder(tmp_path, *command, behaviours={"0": ["defer 1"]})
        assert done.stdout.endswith(
            "\n1 image failed for a reason that may pass (deferred 1). This command fetches it again, and nothing else:"
            "\n\n  embedder run list.csv out --top-up\n\n"
        )


def test_a_top_up_with_another_number_of_chunks_than_the_run_has_is_refused(tmp_path: Path) -> None:
    embedder(tmp_path, "run", "list.csv", "out", "--chunks", "2", "--no-merge")
    done = embedder(tmp_path, "run", "list.csv", "out", "--chunks", "3", "--top-up")
    assert done.returncode == 78
    assert "EMBEDDER_CHUNK_COUNT is 3, and the run in out has 2 chunks; leave out --chunks" in done.stderr


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no MANIFEST is given and EMBEDDER_MANIFEST_URI is not set; see embedder run --help"),
        (["list.csv", "out", "--chunks", "-1"], "EMBEDDER_CHUNK_COUNT is '-1': input should be greater than"),
        (["list.csv", "out", "--only", "4"], "EMBEDDER_CHUNK_INDEXES names chunk 4"),
        (["list.csv", "out", "--set", "fetch_concurency=1"], "did you mean fetch_concurrency?"),
        (["list.csv", "out", "--top-up-reasons", "timeout"], "which only a top-up uses; add --top-up"),
        (["list.csv", "out", "--top-up", "--top-up-reasons", "timeouts"], "no reason timeouts; did you mean timeout?"),
        (["list.csv", "out", "--top-up"], "out holds no run that could be topped up"),
        (["list.csv", "a-file"], "cannot be written"),
        (["list.csv", "out", "--log-dir", "a-file/logs"], "EMBEDDER_LOG_DIR is a-file/logs"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_exit_code_78(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "a-file").touch()
    done = embedder(tmp_path, "run", *arguments)
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1
    said = parse_line(done.stderr.strip())
    assert said is not None
    assert sentence in said.values["message"]
    assert list((tmp_path / "journal").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_unknown_option_is_a_usage_error(tmp_path: Path) -> None:
    done = embedder(tmp_path, "run", "list.csv", "out", "--chunk", "3")
    assert done.returncode == 2
    assert "No such option: --chunk" in done.stderr
    assert "Traceback" not in done.stderr


# Settings


@pytest.mark.parametrize("name", ["fetch_concurrency", "fetch-concurrency", "EMBEDDER_FETCH_CONCURRENCY"])
def test_a_setting_may_be_set_by_any_of_its_names(name: str) -> None:
    assert environment_of({}, [f"{name}=a=b"]) == {"EMBEDDER_FETCH_CONCURRENCY": "a=b"}


@pytest.mark.parametrize("assignment", ["fetch_concurrency", "=3", "colour=red", "job_completion_index=1"])
def test_an_assignment_without_a_value_or_to_an_unknown_setting_is_refused(assignment: str) -> None:
    with pytest.raises(SettingsError, match="--set"):
        environment_of({"model": None}, [assignment])


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PARALLELISM", "two", "EMBEDDER_PARALLELISM is 'two': input should be a valid integer"),
        ("CHUNK_INDEXES", "3,9-7", "the range '9-7' runs backwards"),
        ("RETRIES", "-1", "EMBEDDER_RETRIES is '-1'"),
    ],
)
def test_a_setting_out_of_range_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    for variable, given in (("MANIFEST_URI", "list.csv"), ("RUN_URI", "out"), (name, value)):
        monkeypatch.setenv(f"EMBEDDER_{variable}", given)
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        read_settings(LocalRunSettings)


def test_an_option_that_is_not_given_leaves_the_environment_as_it_is() -> None:
    assert environment_of({"model": None, "dtype": "float32"}, []) == {"EMBEDDER_DTYPE": "float32"}


def test_a_lone_worker_has_all_cores() -> None:
    assert worker_environment({}, index=3, parallelism=1, cores=8) == WORKER_MALLOC | {"JOB_COMPLETION_INDEX": "3"}
    assert worker_environment({}, index=3, parallelism=3, cores=8)["OMP_NUM_THREADS"] == "2"


def test_a_worker_keeps_freed_memory_unless_the_caller_says_otherwise() -> None:
    given = worker_environment({"MALLOC_ARENA_MAX": "4"}, index=3, parallelism=1, cores=8)
    assert {name: value for name, value in given.items() if name.startswith("MALLOC_")} == {
        "MALLOC_ARENA_MAX": "4",
        "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
    }


def test_every_setting_of_the_programs_can_be_given_and_no_other() -> None:
    options = set(inspect.signature(run).parameters) - {"context", "assignments", "no_merge"} | {"merge"}
    settable = SETTINGS.keys() - {"job_completion_index"}
    assert options <= settable
    assert settable == SETTABLE.keys()


def test_the_help_shows_the_defaults_and_variables_of_the_settings() -> None:
    told = {}
    for field, hint in get_type_hints(run, include_extras=True).items():
        for option in getattr(hint, "__metadata__", ()):
            found = re.search(r"default: (\S+) .*· (EMBEDDER_\w+)", option.help)
            if not found:
                continue
            told[field] = (found[1].rstrip("…"), found[2])
    assert {"model", "model_revision", "chunk_count", "retries", "max_failure_ratio"} <= told.keys()
    for field, (default, variable) in told.items():
        assert variable == f"EMBEDDER_{field}".upper()
        readers = (WorkerSettings, LocalRunSettings) if field != "chunk_count" else (LocalRunSettings,)
        actual = str(next(found[field] for found in map(settings_of, readers) if field in found).field.default)
        assert actual.startswith(default.replace("all", "") if field == "chunk_indexes" else default)


# Help


@pytest.mark.parametrize("width", [80, 120])
def test_the_help_fits_the_terminal_and_has_examples_that_parse(tmp_path: Path, width: int) -> None:
    shown = on_terminal(tmp_path, "run", "--help", width=width)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    for panel in ("The work", "The model", "The images", "Faults and logs"):
        assert panel in shown
    for example in EXAMPLES:
        assert example in shown


def test_without_arguments_the_commands_are_shown(tmp_path: Path) -> None:
    done = embedder(tmp_path)
    assert "On this machine" in done.stdout + done.stderr
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", embedder(tmp_path, "--version").stdout)


def test_the_console_script_loads_neither_cluster_nor_cloud_nor_model() -> None:
    heavy = {"kubernetes", "boto3", "torch", "transformers", "h5py", "numpy", "worker.pipeline", "merger.merge"}
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, embedder.cli; print(*(set(sys.modules) & {heavy}))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == []
