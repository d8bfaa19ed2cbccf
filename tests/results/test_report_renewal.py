"""The report that is made again after an index was built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.run.keys import REPORT_KEY
from common.run.summary import read_summary, write_summary
from common.store.folder import FolderStore
from results.index.job import Built
from results.report.failure_digest import FailureDigest
from results.report.page import render_report
from results.report.renewal import renew_report
from results.report.sample_picture import read_pictures
from tests.results.index.indexed import index
from tests.results.reports import made_up_pictures
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from common.store.contract import ObjectStat, Store

INDEX_SECTION = '<section id="index">'


def html_of(store: Store) -> str:
    return store.read(REPORT_KEY).decode()


def finished_run_with_pictures(store: Store) -> None:
    merge_run(store, (30, 20), failed=4)
    summary = read_summary(store)
    assert summary is not None
    html = render_report(summary, FailureDigest(), made_up_pictures(2, each=2))
    store.put_bytes(REPORT_KEY, html.encode())


def test_an_index_is_in_the_report_and_the_pictures_stay(store: Store) -> None:
    finished_run_with_pictures(store)
    pictures = read_pictures(html_of(store))
    assert INDEX_SECTION not in html_of(store)
    index(store)
    html = html_of(store)
    assert INDEX_SECTION in html
    assert "50 of 58 images embedded" in html
    assert pictures
    assert read_pictures(html) == pictures


def test_a_run_without_a_report_gets_none(store: Store) -> None:
    merge_run(store, (30,))
    store.delete([REPORT_KEY])
    index(store)
    assert store.stat(REPORT_KEY) is None


def test_the_report_of_a_merge_under_way_stays(store: Store) -> None:
    merge_run(store, (30,))
    summary = read_summary(store)
    assert summary is not None
    # A merge has published its result and its report, and its summary is still to come.
    write_summary(store, summary.model_copy(update={"table_digest": "0" * 64}), replacing=store.stat("summary.json"))
    store.put_bytes(REPORT_KEY, b"the report of that merge")
    renew_report(store)
    assert html_of(store) == "the report of that merge"


def test_a_report_that_another_program_writes_meanwhile_stays_and_costs_the_index_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class BusyStore(FolderStore):
        """Another program writes the report right before this one."""

        def put_bytes(
            self, key: str, data: bytes, *, overwrite: bool = True, replacing: ObjectStat | None = None
        ) -> ObjectStat:
            if key == REPORT_KEY:
                super().put_bytes(key, b"another report")
            return super().put_bytes(key, data, overwrite=overwrite, replacing=replacing)

    merge_run(FolderStore(str(tmp_path)), (30, 20))
    store = BusyStore(str(tmp_path))
    assert isinstance(index(store), Built)
    assert html_of(store) == "another report"
    assert "report_not_renewed" in "".join(capsys.readouterr())
