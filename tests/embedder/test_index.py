"""`embedder index` in a pipe and on a pseudo-terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.logs import parse_line
from common.run.keys import INDEX_KEY
from common.store import open_store
from tests.embedder.test_cli import embedder, on_terminal
from tests.results.index.indexed import described
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from pathlib import Path


def test_it_makes_the_index_with_the_options_that_are_given(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    merge_run(store, (300,))
    done = embedder(tmp_path, "index", "out", "--m", "8", "--ef-construction", "50", "--threads", "1")
    assert done.returncode == 0, done.stderr
    index = described(store)
    assert index is not None
    assert (index.m, index.ef_construction, index.rows) == (8, 50, 300)
    events = [line.event for text in done.stderr.splitlines() if (line := parse_line(text)) is not None]
    assert [each for each in events if each != "index_step"] == [
        "index_begins",
        "index_progress",
        "index_verified",
        "index_published",
        "finished",
    ]


def test_on_a_terminal_it_shows_a_bar_and_says_how_good_the_index_is(tmp_path: Path) -> None:
    merge_run(open_store(str(tmp_path / "out")), (300,))
    text = on_terminal(tmp_path, "index", "out", width=200)
    assert "300 of 300 vectors" in text
    assert "out/Images_Embedded.bin has 300 vectors in" in text
    assert "of the 10 nearest rows with ef=50" in text
    again = on_terminal(tmp_path, "index", "out", width=200)
    assert "this result has its index" in again


def test_on_a_terminal_a_refusal_is_one_sentence(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    merge_run(store, (1500,), dimensions=64)
    text = on_terminal(tmp_path, "index", "out", "--m", "4", "--ef-construction", "10", "--min-recall", "1", width=300)
    assert "error: the index finds 0." in text
    assert "Traceback" not in text
    assert store.stat(INDEX_KEY) is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 78, "no RUN is given and EMBEDDER_RUN_URI is not set; see embedder index --help"),
        (["out"], 75, "out has no finished result"),
        (["out", "--m", "2"], 78, "EMBEDDER_INDEX_M is '2': input should be greater than or equal to 4"),
        (["ftp://host/run"], 78, "ftp://host/run is not a place for a run"),
    ],
)
def test_what_cannot_be_indexed_is_said_in_one_sentence(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = embedder(tmp_path, "index", *arguments)
    assert done.returncode == code
    line = parse_line(done.stderr.splitlines()[-1])
    assert line is not None
    assert line.values["message"].startswith(message)
    assert not (tmp_path / "out").exists()
