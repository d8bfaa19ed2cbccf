"""One attempt of the merge, from the headers of the chunks to the finished run.

The order of the steps makes it safe to kill the process at any line:

    1. the earlier result is copied, if chunks come from there
    2. the result is assembled, verified and published in one step, after the earlier result's index was deleted
    3. the ledger is written, then the report
    4. the summary is written: from now on the run is finished
    5. the chunk files and the copy are deleted

So a later merge finds a finished run, or all chunks, in chunk files and the earlier result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import EmbedderError, StoreUnavailable
from common.logs import log
from common.run.keys import EARLIER_RESULT_KEY, FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY
from common.run.summary import write_summary
from common.store.contract import AssemblyGone, ObjectExists
from merger.chunk_times import collect_times
from merger.clear_up import clear_up
from merger.damage import find_damaged_chunks
from merger.earlier_copy import copy_object, keep_earlier_result
from merger.finding import BadChunks, BadEarlierRows, MergeRefused, may_be_true
from merger.layout import EMBEDDINGS, compute_layout, result_attributes
from merger.ledger import spooled_ledger
from merger.progress import Step
from merger.publisher import Publisher
from merger.report_file import find_earlier_summary, write_report
from merger.sources import DigestDiffers, Sources
from merger.stale_index import delete_stale_index
from merger.summary import summarise
from merger.totals import count_totals

if TYPE_CHECKING:
    from common.run.summary import Summary
    from common.store.contract import ObjectStat, Store
    from merger.chunks import Inputs
    from merger.earlier_result import EarlierResult
    from merger.finding import Finding
    from merger.layout import Layout
    from merger.progress import Progress, Traffic
    from merger.settings import MergerSettings
    from merger.totals import Totals


def merge_inputs(
    store: Store, inputs: Inputs, settings: MergerSettings, progress: Progress, *, replacing: ObjectStat | None
) -> Summary:
    """Merge the chunks and finish the run. Return the summary that was written.

    `replacing` is the result that was there before the chunks were listed.

    Raises MergeRefused when a chunk is damaged or a result of another run is there, ObjectExists and AssemblyGone when
    another program got in the way, and StoreUnavailable.
    """
    totals = count_totals(inputs.headers, inputs.missing)
    if inputs.earlier is not None and not inputs.earlier.is_verified:
        settings = settings.model_copy(update={"verify": "full"})
    inputs = _keep_earlier(store, inputs, settings, progress)
    sources = Sources(store, inputs.chunks, lay_out_result(inputs, totals), progress.traffic)
    log.info(
        "merge_begins",
        chunks=len(inputs.chunks),
        missing=len(inputs.missing),
        rows=sources.layout.rows,
        bytes=sources.layout.size,
        from_chunk_files=len(inputs.files),
    )
    try:
        summary = _finish(sources, inputs, totals, settings, progress, replacing=replacing)
    except (StoreUnavailable, MergeRefused):
        if inputs.earlier is not None:
            _put_back(store, inputs.earlier, settings, progress.traffic)
            sources.check_unchanged()
        raise
    progress.step = Step.CLEARING_UP
    clear_up(
        store,
        chunk_count=settings.chunk_count,
        merged_chunks=[chunk.stat for chunk in inputs.files],
        # A partial merge keeps the chunk files, so that a later merge can complete the result.
        keep_chunks=settings.keep_chunks or bool(inputs.missing),
        earlier=store.stat(EARLIER_RESULT_KEY) if inputs.earlier is None else inputs.earlier.stat,
    )
    return summary


def _keep_earlier(store: Store, inputs: Inputs, settings: MergerSettings, progress: Progress) -> Inputs:
    """Have the store copy the earlier result, unless the rows already come from a copy."""
    if inputs.earlier is None or inputs.earlier.stat.key == EARLIER_RESULT_KEY:
        return inputs
    progress.step = Step.EARLIER_RESULT
    return inputs.moved(keep_earlier_result(store, inputs.earlier, settings, progress.traffic))


def lay_out_result(inputs: Inputs, totals: Totals) -> Layout:
    """Return the layout of the result of these chunks."""
    layout = compute_layout(inputs.headers, result_attributes(inputs.headers, totals), inputs.table)
    if inputs.earlier is None:
        return layout
    row_pitch = inputs.earlier.row_pitch()
    return layout._replace(
        from_earlier=[not chunk.is_file for chunk in inputs.chunks],
        copied_texts=frozenset(
            column.name
            for column in layout.columns
            if column.name != EMBEDDINGS and row_pitch.get(column.name) == column.row_bytes
        ),
    )


def _finish(
    sources: Sources,
    inputs: Inputs,
    totals: Totals,
    settings: MergerSettings,
    progress: Progress,
    *,
    replacing: ObjectStat | None,
) -> Summary:
    """Write the result, the ledger, the report and the summary."""
    store = sources.store
    try:
        # The failures are read first, so that damage among them is found before anything is published.
        progress.step = Step.FAILURES
        with spooled_ledger(sources, concurrency=settings.merge_concurrency) as ledger:
            published = Publisher(sources, inputs.provenance, settings, progress).publish(replacing=replacing)
            progress.step = Step.LEDGER
            seen = _stat_while_published(store, FAILURES_KEY, published.stat)
            store.put_file(FAILURES_KEY, ledger.path, overwrite=False, replacing=seen)
            progress.step = Step.REPORT
            earlier = find_earlier_summary(store, inputs, replacing=replacing)
            summary = summarise(
                inputs,
                totals,
                sources.layout,
                failures_by_reason=ledger.by_reason,
                verification=published.verification,
                assembly=published.assembly,
                traffic=progress.traffic,
                seconds=progress.seconds,
                times=collect_times(inputs, earlier),
                gpu_hour_price=settings.gpu_hour_price,
            )
            seen = _stat_while_published(store, REPORT_KEY, published.stat)
            write_report(store, summary, inputs, ledger=ledger.path, earlier=earlier, replacing=seen)
    except DigestDiffers as error:
        damaged = find_damaged_chunks(
            error, sources, with_vectors=settings.verify == "full", concurrency=settings.merge_concurrency
        )
        raise MergeRefused(_of_earlier_rows(damaged, sources) or damaged) from error
    except MergeRefused as refused:
        if (of_earlier := _of_earlier_rows(refused.finding, sources)) is None:
            raise
        raise MergeRefused(of_earlier) from refused
    progress.step = Step.SUMMARY
    delete_stale_index(store)
    write_summary(store, summary, replacing=_stat_while_published(store, SUMMARY_KEY, published.stat))
    return summary


def _of_earlier_rows(finding: Finding, sources: Sources) -> BadEarlierRows | None:
    """Return the finding about chunks of the earlier result, None where the finding is about chunk files alone."""
    if not isinstance(finding, BadChunks) or not may_be_true(finding):
        return None
    earlier = {chunk.header.index: chunk.stat for chunk in sources.chunks if not chunk.is_file}
    problems = [problem for problem in finding.problems if problem.index in earlier]
    if not problems:
        return None
    location = sources.store.location(earlier[problems[0].index].key)
    return BadEarlierRows(location, tuple(problem.index for problem in problems), message=problems[0].message)


def _put_back(store: Store, earlier: EarlierResult, settings: MergerSettings, traffic: Traffic) -> None:
    """Put the earlier result back where this merge has replaced it by one that it had to delete.

    The next merge goes on from the copy anyway; this is for the readers of the result.
    """
    try:
        if store.stat(RESULT_KEY) is None and store.stat(EARLIER_RESULT_KEY) == earlier.stat:
            copy_object(store, earlier.stat, RESULT_KEY, replacing=None, settings=settings, traffic=traffic)
            log.info("earlier_result_is_back", object=store.location(RESULT_KEY))
    except (EmbedderError, ObjectExists, AssemblyGone) as error:
        log.warning("earlier_result_not_back", object=store.location(RESULT_KEY), error=str(error))


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
