"""One attempt of the merge, from the headers of the chunks to the finished run.

The order of the steps makes it safe to kill the process at any line:

    1. the result is assembled, verified and published in one step
    2. the ledger is written
    3. the summary is written: from now on the run is finished
    4. the chunk files are deleted

So a later merge finds either a finished run or all chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.logs import log
from common.run.keys import FAILURES_KEY, RESULT_KEY, SUMMARY_KEY
from common.run.summary import write_summary
from common.store.contract import ObjectExists
from merger.clear_up import clear_up
from merger.damage import find_damaged_chunks
from merger.finding import MergeRefused
from merger.layout import compute_layout, result_attributes
from merger.ledger import spooled_ledger
from merger.progress import Step
from merger.publisher import Publisher
from merger.sources import DigestDiffers, Sources
from merger.summary import summarise
from merger.totals import count_totals

if TYPE_CHECKING:
    from common.run.summary import Summary
    from common.store.contract import ObjectStat, Store
    from merger.chunks import Inputs
    from merger.progress import Progress
    from merger.settings import MergerSettings


def merge_inputs(store: Store, inputs: Inputs, settings: MergerSettings, progress: Progress) -> Summary:
    """Merge the chunks and finish the run. Return the summary that was written.

    Raises MergeRefused when a chunk is damaged or a result of another run is there, ObjectExists and AssemblyGone when
    another merge got in the way, and StoreUnavailable.
    """
    totals = count_totals(inputs.headers, inputs.missing)
    layout = compute_layout(inputs.headers, result_attributes(inputs.headers, totals))
    sources = Sources(store, inputs.chunks, layout, progress.traffic)
    log.info(
        "merge_begins", chunks=len(inputs.chunks), missing=len(inputs.missing), rows=layout.rows, bytes=layout.size
    )
    try:
        # The failures are read first, so that damage among them is found before anything is published.
        progress.step = Step.FAILURES
        with spooled_ledger(sources, concurrency=settings.merge_concurrency) as ledger:
            published = Publisher(sources, inputs.provenance, settings, progress).publish()
            progress.step = Step.LEDGER
            seen = _stat_while_published(store, FAILURES_KEY, published.stat)
            store.put_file(FAILURES_KEY, ledger.path, overwrite=False, replacing=seen)
    except DigestDiffers as error:
        damaged = find_damaged_chunks(
            error, sources, with_vectors=settings.verify == "full", concurrency=settings.merge_concurrency
        )
        raise MergeRefused(damaged) from error
    progress.step = Step.SUMMARY
    summary = summarise(
        inputs,
        totals,
        layout,
        failures_by_reason=ledger.by_reason,
        verification=published.verification,
        assembly=published.assembly,
        traffic=progress.traffic,
        seconds=progress.seconds,
    )
    write_summary(store, summary, replacing=_stat_while_published(store, SUMMARY_KEY, published.stat))
    progress.step = Step.CLEARING_UP
    # A partial merge keeps the chunk files, so that a later merge can complete the result.
    keep_chunks = settings.keep_chunks or bool(inputs.missing)
    merged_chunks = [header.index for header in inputs.headers]
    clear_up(store, chunk_count=settings.chunk_count, merged_chunks=merged_chunks, keep_chunks=keep_chunks)
    return summary


def _stat_while_published(store: Store, key: str, published: ObjectStat) -> ObjectStat | None:
    """Return the object under `key`, which this merge replaces next, after a check that the result is still its own.

    Raises ObjectExists where another merge has replaced the result, perhaps with a result of other chunks. A merge that
    replaces the result only after this check then writes its own object under `key`. If it does so before this merge,
    this merge finds an object that it has not seen, and does not replace it.
    """
    seen = store.stat(key)
    if store.stat(RESULT_KEY) != published:
        raise ObjectExists(store.location(RESULT_KEY))
    return seen
