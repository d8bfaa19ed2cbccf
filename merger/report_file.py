"""report.html: the run to look at. It is written before summary.json, which makes the run finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ChunkInvalid
from common.run.keys import REPORT_KEY
from common.run.summary import read_summary
from merger.chunks import MOST_PICTURES
from results.report.failure_digest import digest_ledger
from results.report.page import render_report
from results.report.renewal import earlier_pictures
from results.report.sample_picture import SamplePicture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from common.run.summary import Summary
    from common.store.contract import ObjectStat, Store
    from merger.chunks import Inputs


def find_earlier_summary(store: Store, inputs: Inputs, *, replacing: ObjectStat | None) -> Summary | None:
    """Return the summary of the result that this merge replaces or takes rows from, None where there is none."""
    if replacing is None and inputs.earlier is None:
        return None
    try:
        summary = read_summary(store)
    except ChunkInvalid:
        return None
    return summary if summary is not None and summary.fingerprint == inputs.provenance.fingerprint else None


def write_report(
    store: Store,
    summary: Summary,
    inputs: Inputs,
    *,
    ledger: Path,
    earlier: Summary | None,
    replacing: ObjectStat | None,
) -> None:
    """Write the report of this merge in place of `replacing`.

    The pictures of chunks without a file are those of the earlier report, if there is an `earlier` summary too.

    Raises ObjectExists when another object is there, and StoreUnavailable.
    """
    pictures = [
        SamplePicture(chunk.header.index, url, jpeg) for chunk in inputs.files for url, jpeg in chunk.header.pictures
    ]
    if earlier is not None:
        pictures += earlier_pictures(store, replacing)
    with ledger.open("rb") as file:
        failures = digest_ledger(file)
    page = render_report(summary, failures, _some(pictures))
    store.put_bytes(REPORT_KEY, page.encode(), overwrite=False, replacing=replacing)


def _some(pictures: Sequence[SamplePicture]) -> list[SamplePicture]:
    """Return the pictures in the order of their chunks, each once, and at most MOST_PICTURES, spread evenly."""
    first = {(picture.chunk, picture.url): picture for picture in reversed(pictures)}
    each = [first[key] for key in sorted(first, key=lambda key: key[0])]
    count = min(len(each), MOST_PICTURES)
    return [each[number * len(each) // count] for number in range(count)]
