"""The report of a finished run, made again from what the run keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import EmbedderError
from common.logs import log
from common.run.keys import REPORT_KEY
from common.run.state import find_finished
from common.store.contract import ObjectExists
from results.report.failure_digest import digest_failures
from results.report.page import render_report
from results.report.sample_picture import read_pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.run.summary import Summary
    from common.store.contract import ObjectStat, Store
    from results.report.sample_picture import SamplePicture

MOST_REPORT_BYTES = 16 << 20
"""Size in bytes of the largest earlier report that is read for its pictures. A report has at most 5 MB."""


def make_report(store: Store, summary: Summary, *, earlier: ObjectStat | None) -> str:
    """Return the report of the finished run in the store, with the pictures of the earlier one.

    Raises StoreUnavailable.
    """
    return render_report(summary, digest_failures(store), earlier_pictures(store, earlier))


def earlier_pictures(store: Store, report: ObjectStat | None) -> Sequence[SamplePicture]:
    """Return the pictures of a report in the store, none where there is no report."""
    if report is None:
        return ()
    if report.size > MOST_REPORT_BYTES:
        log.warning("report_not_read", object=store.location(REPORT_KEY), bytes=report.size)
        return ()
    return read_pictures(store.read(REPORT_KEY, 0, report.size).decode("utf-8", "replace"))


def renew_report(store: Store) -> None:
    """Make the run's report again because its summary says more now. A run without a report gets none.

    The result stands without it: where the report cannot be made, a log line says so.
    """
    try:
        # A merge writes its result, its report and then its summary. So a report that is seen before a finished run
        # belongs to that run or to an earlier one, and the report of a newer merge is not replaced.
        earlier = store.stat(REPORT_KEY)
        finished = find_finished(store)
        if earlier is None or finished is None:
            return
        html = make_report(store, finished.summary, earlier=earlier)
        store.put_bytes(REPORT_KEY, html.encode(), overwrite=False, replacing=earlier)
    except (EmbedderError, ObjectExists) as error:
        log.warning("report_not_renewed", object=store.location(REPORT_KEY), error=str(error))
