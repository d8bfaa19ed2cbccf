"""Index programs that are stopped, killed, or run twice, and merges that are killed while an index is there."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from common.logs import parse_line
from common.run.keys import INDEX_KEY, RESULT_KEY
from common.run.summary import read_summary
from common.store import open_store
from merger.merge import merge
from results.index.job import Built
from tests.merger.dying import KILLED, start_merge, wait_for
from tests.merger.runs import make_chunk, put_chunk, put_run, settings_for
from tests.results.index.indexed import SearchBackend, downloaded, index, start_index
from tests.results.runs import merge_run

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from common.store.contract import Store


def wait_for_event(process: subprocess.Popen[str], event: str) -> None:
    assert process.stderr is not None
    for text in process.stderr:
        line = parse_line(text)
        if line is not None and line.event == event:
            return
    raise AssertionError(f"the program ended without {event}")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["index_step", "index_progress"])
def test_a_stopped_program_ends_soon_and_leaves_nothing(tmp_path: Path, when: str) -> None:
    store = open_store(str(tmp_path / "run"))
    merge_run(store, (20_000,))
    with start_index(store, index_ef_construction=2000, index_m=64, progress_seconds=1) as process:
        wait_for_event(process, when)
        stopped = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        last = parse_line(process.stderr.read().splitlines()[-1])
        assert process.wait() == 143
    assert time.monotonic() - stopped < 10
    assert last is not None
    assert last.event == "stopped"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "Images_Embedded.h5",
        "failures.csv",
        "summary.json",
    }


@pytest.mark.slow
def test_a_killed_program_leaves_nothing_that_counts_and_the_next_one_goes_on(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    merge_run(store, (3000,))
    with start_index(store, index_ef_construction=500, index_m=32) as process:
        wait_for_event(process, "index_step")
        process.kill()
    assert store.stat(INDEX_KEY) is None
    assert isinstance(index(store), Built)
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
def test_two_index_programs_at_once_have_the_same_outcome(
    store: Store, s3_environment: dict[str, str], tmp_path: Path
) -> None:
    merge_run(store, (1500, 500))
    both = [start_index(store, s3_environment) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    summary, stat = read_summary(store), store.stat(INDEX_KEY)
    assert summary is not None
    assert summary.has_current_index
    assert stat is not None
    assert summary.index is not None
    assert stat.size == summary.index.bytes
    backend = SearchBackend(downloaded(store, tmp_path / "backend") / RESULT_KEY)
    assert backend.search(backend.embeddings[1999], 1)[0][0] == backend.urls[1999]


@pytest.mark.slow
def test_a_merge_that_is_killed_at_any_write_leaves_no_result_with_an_index_of_another_one(
    store: Store, tmp_path: Path
) -> None:
    put_run(store, (30, 20), failed=2)
    settings = settings_for(store, 2, verify_rows=8)
    merge(store, settings)
    index(store)
    for turn, writes in enumerate(range(1, 40, 2)):
        put_chunk(store, make_chunk(1, 23 + turn, chunk_count=2))
        code = wait_for(start_merge(store.uri, settings, writes=writes))
        folder = downloaded(store, tmp_path / f"backend-{turn}")
        if (folder / INDEX_KEY).exists():
            backend = SearchBackend(folder / RESULT_KEY)
            assert backend.loaded_index
            assert backend.index.get_current_count() == len(backend.urls)
            assert [backend.search(each, 1)[0][0] for each in backend.embeddings] == backend.urls
        merge(store, settings)
        assert store.stat(INDEX_KEY) is None
        assert isinstance(index(store), Built)
        if code == 0:
            break
        assert code == KILLED
    else:
        raise AssertionError("no merge came to its end")


def test_a_killed_upload_is_removed_by_the_next_program(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/run")
    merge_run(store, (30,))
    left = store.assemble(INDEX_KEY, size=10, replacing=None)
    left.__enter__().upload(1, 0, b"half of it")  # a killed program does not come to the end of the block
    index(store)
    assert store.abort_assemblies(INDEX_KEY) == 0
