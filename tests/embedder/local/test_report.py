from __future__ import annotations

import io
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from common.run.keys import REPORT_KEY
from common.store import open_store
from embedder.local.outcome import Ending, Outcome
from embedder.local.report import report_failures, report_result
from merger.merge import merge
from tests.merger.runs import make_chunk, put_chunk, settings_for
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store


def said(store: Store, *, untrained: bool = False, manifest_uri: str = "") -> str:
    console = Console(file=io.StringIO(), highlight=False, markup=False, soft_wrap=True)
    report_result(console, store, manifest_uri=manifest_uri, skipped="", untrained=untrained)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_ends_with_its_report_and_the_commands_that_search_and_show_the_result(store: Store) -> None:
    merge_run(store, (3, 2))
    text = said(store, untrained=False)
    assert f"\nreport    {store.location(REPORT_KEY)}\n" in text
    assert f'\n  embedder search {store.uri} "two dogs on a beach"\n  embedder explore {store.uri}\n' in text
    assert "mean" not in text
    text = said(store, untrained=True)
    assert f'embedder search {store.uri} "two dogs on a beach"  # with these weights, answers mean nothing\n' in text


def test_a_run_without_any_image_says_nothing_of_a_search(store: Store) -> None:
    merge_run(store, (0, 0), failed=2)
    text = said(store, untrained=True)
    assert text.startswith("0 of 4 images embedded\n")
    assert f"report    {store.location(REPORT_KEY)}\n" in text
    assert "h5py" not in text
    assert "embedder" not in text


@pytest.mark.parametrize(
    ("exit_code", "advice"),
    [(1, "This is a bug in the embedder"), (75, "The cause may pass"), (65, "Remove the cause")],
)
def test_the_end_of_a_failed_run_says_what_to_do(tmp_path: Path, exit_code: int, advice: str) -> None:
    console = Console(file=io.StringIO(), highlight=False, markup=False, soft_wrap=True)
    ended = Outcome(failed={0: Ending(exit_code, "it ended", tmp_path / "0.log")})
    report_failures(console, ended, ["embedder", "run"], chunk_count=1)
    assert isinstance(console.file, io.StringIO)
    assert advice in console.file.getvalue()
    assert "This command continues the run:\n\n  embedder run\n" in console.file.getvalue()


def test_a_run_without_a_report_names_none(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a [run]"))
    merge_run(store, (3, 2))
    store.delete([REPORT_KEY])
    text = said(store, untrained=False)
    assert "report.html" not in text
    assert f"embedder explore '{store.uri}'\n" in text


@pytest.mark.parametrize("is_on_path", [True, False])
def test_the_commands_begin_with_the_path_of_an_embedder_that_no_shell_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_on_path: bool
) -> None:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "embedder").write_text("#!/bin/sh\n")
    (folder / "embedder").chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder)] if is_on_path else [str(tmp_path)]))
    monkeypatch.setattr("sys.argv", [str(folder / "embedder"), "run", "list.csv", "out"])
    store = open_store(str(tmp_path / "run"))
    merge_run(store, (3,))
    name = "embedder" if is_on_path else str(folder / "embedder")
    assert f"\n  {name} explore {store.uri}\n" in said(store, untrained=False)


def test_the_command_that_shows_local_pictures_names_their_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    chunk = replace(make_chunk(0, 1, chunk_count=1), urls=["photos/1.jpg"])
    put_chunk(store, chunk)
    merge(store, settings_for(store, 1))
    (tmp_path / "a list").mkdir()
    manifest = tmp_path / "a list" / "list.csv"
    manifest.write_text("url\nphotos/1.jpg\n")
    assert f"explore {store.uri} --images '{manifest.parent}'\n" in said(store, manifest_uri=str(manifest))
    assert f"explore {store.uri} --images '{manifest.parent}'\n" in said(store, manifest_uri=str(manifest.parent))
    assert f"explore {store.uri}\n" in said(store, manifest_uri="https://example.org/list.csv")


def test_the_command_that_shows_pictures_of_the_web_names_no_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    merge_run(store, (3,))
    manifest = tmp_path / "list.csv"
    manifest.write_text("url\nhttps://photos.example/0\n")
    assert f"explore {store.uri}\n" in said(store, manifest_uri=str(manifest))
