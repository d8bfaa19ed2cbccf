"""`embedder search`, from its options to what it prints."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from common.errors import (
    ChunkInvalid,
    FingerprintMismatch,
    QueryRefused,
    RunUnfinished,
    SettingsError,
)
from common.run.keys import FAILURES_KEY, RESULT_KEY, SUMMARY_KEY
from common.store import open_store
from embedder.search.found import Found, as_csv, as_json, as_table, read_rows
from results.nearest import ExactSearch
from results.result import open_result
from tests.embedder.command_line import embedder
from tests.embedder.searching import result_of
from tests.merger.runs import put_run
from tests.results.runs import merge_run
from worker.decode.geometry import PREPROCESSING_VERSION
from worker.encode.model import UNTRAINED, find_model

if TYPE_CHECKING:
    from common.store.contract import Store

HOSTILE = "https://example.org/\x1b[2J\x1b]0;owned\x07\u202e'=cmd|"


def rows_of(*arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(embedder("search", *arguments, "--json").out)["rows"]
    return found


@pytest.mark.slow
def test_an_image_of_the_run_finds_itself(photo_run: Path) -> None:
    result = result_of(photo_run)
    (url,) = result.urls(3, 4)
    rows = rows_of(photo_run, "--image", url, "--count", 3)
    assert [each["rank"] for each in rows] == [1, 2, 3]
    assert (rows[0]["row"], rows[0]["url"]) == (3, url)
    assert rows[0]["score"] == pytest.approx(1, abs=1e-5)
    scores = np.sort(result.vectors(0, result.row_count) @ result.vectors(3, 4)[0])[::-1][:3]
    assert [each["score"] for each in rows] == pytest.approx(scores.tolist(), abs=1e-5)


@pytest.mark.slow
def test_a_text_finds_the_rows_nearest_to_its_vector(photo_run: Path, talking_clip: Path) -> None:
    from worker.encode.text_tower import load_text_tower  # noqa: PLC0415 - imports torch

    vector = load_text_tower(find_model(str(talking_clip), revision="")).vector("two dogs").vector
    expected = ExactSearch(result_of(photo_run)).nearest(vector, 4)
    rows = rows_of(photo_run, "two dogs", "-k", 4)
    assert [each["row"] for each in rows] == [each.row for each in expected]
    table = embedder("search", photo_run, "two dogs", "-k", 4).out
    assert [line.split()[0] for line in table.splitlines() if "/photos/" in line] == ["1", "2", "3", "4"]
    lines = list(csv.DictReader(io.StringIO(embedder("search", photo_run, "two dogs", "-k", 4, "--csv").out)))
    assert [int(line["row"]) for line in lines] == [each.row for each in expected]


@pytest.mark.slow
def test_more_rows_than_there_are_is_all_rows(photo_run: Path) -> None:
    assert len(rows_of(photo_run, "two dogs", "--count", 1000)) == result_of(photo_run).row_count


def make_untrained_run(store: Store) -> None:
    merge_run(store, (40,), weights=find_model(UNTRAINED, revision="").weights, preprocessing=PREPROCESSING_VERSION)


@pytest.mark.slow
def test_a_run_in_a_bucket_is_searched_and_its_answers_of_random_weights_are_said_to_mean_nothing(
    bucket: str, s3_environment: dict[str, str]
) -> None:
    del s3_environment
    store = open_store(f"s3://{bucket}/a run+é")
    make_untrained_run(store)
    output = embedder("search", store.uri, "two dogs", "--json")
    found = json.loads(output.out)
    assert found["is_untrained"] is True
    assert "the answers mean NOTHING" in output.err
    assert len(found["rows"]) == 10
    result = open_result(store)
    for each in found["rows"]:
        assert [each["url"]] == result.urls(each["row"], each["row"] + 1)


@pytest.mark.slow
def test_vectors_of_another_model_are_not_searched(tmp_path: Path, talking_clip: Path) -> None:
    store = open_store(str(tmp_path))
    make_untrained_run(store)
    with pytest.raises(FingerprintMismatch, match="name the folder of the run's model"):
        embedder("search", tmp_path, "two dogs", "--model", talking_clip)


@pytest.mark.slow
def test_a_wrong_query_is_one_sentence_and_its_exit_code(photo_run: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from embedder.cli import main; main()", "search", str(photo_run), "--image", __file__],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (65, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "not_an_image" in ended.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "give exactly one of TEXT, --image FILE and --url URL"),
        (("dogs", "--url", "https://example.org/a.jpg"), "give exactly one of"),
        (("dogs", "--count", "0"), "--count is 0; choose a number from 1 to 10000"),
        (("dogs", "--json", "--csv"), "--json and --csv are both given"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: tuple[str, ...], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        embedder("search", tmp_path, *options)


def test_a_query_of_nothing_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(QueryRefused, match="the text is empty"):
        embedder("search", tmp_path / "absent", " ")
    with pytest.raises(QueryRefused, match=r"absent\.jpg, which cannot be read: No such file"):
        embedder("search", tmp_path, "--image", tmp_path / "absent.jpg")
    with pytest.raises(QueryRefused, match="which cannot be read: Is a directory"):
        embedder("search", tmp_path, "--image", tmp_path)
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(QueryRefused, match=r"huge\.jpg, which has more than 67108864 bytes"):
        embedder("search", tmp_path, "--image", tmp_path / "huge.jpg")


def test_a_run_that_is_not_finished_has_nothing_to_search(tmp_path: Path) -> None:
    put_run(open_store(str(tmp_path)), (3, 3))
    with pytest.raises(RunUnfinished, match="has no finished result"):
        embedder("search", tmp_path, "two dogs")


def test_a_result_of_another_version_is_told_as_such(tmp_path: Path) -> None:
    merge_run(open_store(str(tmp_path)), (3,))
    with h5py.File(tmp_path / RESULT_KEY, "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(ChunkInvalid, match="schema version 99, this program reads 1"):
        embedder("search", tmp_path, "two dogs")


def test_a_search_reads_the_vectors_and_the_rows_that_it_shows(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    merge_run(store, (300,))
    for key in (SUMMARY_KEY, FAILURES_KEY):
        assert store.stat(key) is not None
    result = open_result(store)
    nearest = ExactSearch(result).nearest(result.vectors(7, 8)[0], 5)
    found = read_rows(result, nearest)
    assert [each.row for each in found] == [each.row for each in nearest]
    assert [each.url for each in found] == [result.urls(each.row, each.row + 1)[0] for each in nearest]


# What is printed


def test_a_table_does_not_control_the_terminal() -> None:
    from rich.console import Console  # noqa: PLC0415 - as the command does

    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    console.print(as_table([Found(1, 0.5, HOSTILE, "[red]id\x9b")], has_ids=True))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(each.isprintable() for line in shown.splitlines() for each in line)
    assert "[red]id\\x9b" in shown
    assert "\\x1b[2J" in shown


def test_json_is_ascii_and_keeps_every_character() -> None:
    text = as_json([Found(1, 0.25, HOSTILE, None)], run="out", search="exact", is_untrained=False)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["rows"] == [{"rank": 1, "score": 0.25, "row": 1, "url": HOSTILE}]


def test_a_spreadsheet_takes_no_cell_for_a_formula() -> None:
    text = as_csv([Found(1, 0.5, "=HYPERLINK(1)", "@id")], has_ids=True)
    assert text == "rank,score,row,id,url\n1,0.500000,1,'@id,'=HYPERLINK(1)\n"
