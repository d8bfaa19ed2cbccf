from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.errors import RunUnfinished, SettingsError
from common.run.keys import REPORT_KEY
from common.run.summary import read_summary, write_summary
from common.store import open_store
from results.report.failure_digest import FailureDigest
from results.report.page import render_report
from results.report.sample_picture import read_pictures
from tests.embedder.command_line import embedder
from tests.merger.runs import put_run
from tests.results.reports import chunk_times, made_up_pictures
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from pathlib import Path

    from common.run.summary import Summary
    from common.store.contract import Store


def finished_run(store: Store) -> Summary:
    """Make a finished run with an earlier report, and return its summary with times."""
    merge_run(store, (30, 20), failed=4)
    store.delete([REPORT_KEY])
    summary = read_summary(store)
    assert summary is not None
    times = chunk_times(2, workers=1)
    changed = summary.model_copy(update={"chunk_times": times, "gpu_hours": 2.0, "gpu_hour_price": 0.5})
    write_summary(store, changed, replacing=store.stat("summary.json"))
    return changed


def html_of(store: Store) -> str:
    return store.read(REPORT_KEY).decode()


def test_a_report_is_made_again_from_what_the_run_has(store: Store) -> None:
    summary = finished_run(store)
    pictures = made_up_pictures(2, each=2)
    store.put_bytes(REPORT_KEY, render_report(summary, FailureDigest(), pictures).encode())
    done = embedder("report", store.uri)
    assert done.out == f"{store.location(REPORT_KEY)}\n"
    html = html_of(store)
    assert "50 of 58 images embedded" in html
    assert "https://photos.example/gone/0/0" in html
    assert read_pictures(html) == pictures
    assert f'value="{summary.cost_per_million}"' in html
    assert embedder("report", store.uri) == done
    assert html_of(store) == html


def test_another_price_changes_the_report_and_not_the_summary(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    finished_run(store)
    before = store.read("summary.json")
    embedder("report", store.uri, "--gpu-hour-price", "2")
    assert 'value="80000.0"' in html_of(store)
    assert store.read("summary.json") == before


def test_another_file_takes_the_report_and_the_run_stays_as_it_is(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    finished_run(store)
    file = tmp_path / "a report.html"
    assert embedder("report", store.uri, "--output", file).out == f"{file}\n"
    assert "50 of 58 images embedded" in file.read_text()
    assert store.stat(REPORT_KEY) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a report.html", "run"]


def test_a_run_that_is_not_finished_has_no_report(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put_run(store, (3, 3))
    with pytest.raises(RunUnfinished, match="has no finished result"):
        embedder("report", store.uri)
    assert store.stat(REPORT_KEY) is None
    with pytest.raises(RunUnfinished):
        embedder("report", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_an_earlier_report_that_is_no_report_costs_only_the_pictures(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    finished_run(store)
    for other in (b"\xff\x00<img class='sample' src='data:image/jpeg;base64,???'>", bytes(17 << 20)):
        store.put_bytes(REPORT_KEY, other)
        embedder("report", store.uri)
        assert "The chunks of this run hold no sample pictures." in html_of(store)


def test_a_file_that_cannot_be_written_and_a_price_that_is_none_are_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    finished_run(store)
    with pytest.raises(SettingsError, match=r"--output is .*/no/such/folder\.html: No such file or directory"):
        embedder("report", store.uri, "--output", tmp_path / "no/such/folder.html")
    with pytest.raises(SettingsError, match="--gpu-hour-price is inf; give an amount"):
        embedder("report", store.uri, "--gpu-hour-price", "inf")
