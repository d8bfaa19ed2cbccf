"""The index of a run, from a finished run to an index that its summary describes.

1. the vectors pass once through memory: into the index, and past the sampled rows (recall)
2. the index is written to a file, and loaded from there as a search backend does
3. its recall is measured; too small a recall ends the program with exit code 65
4. the file is published, if the result is still the same one, and then the summary names it, and the report too
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from common.errors import DataError, ResourceExhausted, SettingsError, StoreUnavailable
from common.format.provenance import program_version
from common.logs import log
from common.process import program
from common.process.limits import count_cores, find_memory
from common.run.keys import INDEX_KEY, SUMMARY_KEY
from common.run.summary import IndexSummary
from common.store.contract import AssemblyGone, ObjectExists
from results.current_index import CurrentIndex, find_current_index
from results.hnsw import IndexDamaged, file_bytes, memory_bytes
from results.index.builder import build_index_file
from results.index.progress import Progress
from results.index.publisher import Publisher, clear_up
from results.index.recall import GOOD_RECALL, ExactNeighbours, measure_recall, sample_rows
from results.index.upload import file_sha256
from results.report.renewal import renew_report
from results.result import BLOCK_BYTES, open_result

if TYPE_CHECKING:
    from pathlib import Path

    from common.process.limits import Memory
    from common.store.contract import Store
    from results.index.settings import IndexSettings
    from results.result import Result

ATTEMPTS = 3
"""Largest number of attempts. Each begins anew where a merge or another index program got in the way."""

DISTURBED_SECONDS = 2
"""Pause in seconds after a disturbed attempt, in which the other program can finish."""

PROGRAM_BYTES = 150 << 20
"""Memory in bytes that the program needs beside the index, without blocks: interpreter, libraries, buffers."""


class IndexRefused(DataError):
    """The index finds too few of the nearest rows."""


@dataclass(frozen=True)
class Built:
    index: IndexSummary


@dataclass(frozen=True)
class AlreadyBuilt:
    index: IndexSummary


@dataclass(frozen=True)
class NothingToIndex:
    """The result has no rows."""


def make_index(store: Store, settings: IndexSettings) -> Built | AlreadyBuilt | NothingToIndex:
    """Make sure that the run has an index that belongs to its result and was made with these settings.

    Raises RunUnfinished without a finished run; SettingsError or ResourceExhausted where memory or disk do not suffice;
    IndexRefused; and StoreUnavailable, also when other programs got in the way ATTEMPTS times.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(store, settings)
        except (ObjectExists, AssemblyGone) as error:
            log.warning("index_disturbed", attempt=attempt, of=ATTEMPTS, error=str(error))
            last = error
        time.sleep(DISTURBED_SECONDS)
    raise StoreUnavailable(
        f"{ATTEMPTS} attempts to make {store.location(INDEX_KEY)} failed, because other programs replaced the result, "
        f"the index or the summary meanwhile ({last}); run it again when no merge of this run is under way"
    ) from last


def _attempt(store: Store, settings: IndexSettings) -> Built | AlreadyBuilt | NothingToIndex:
    # What is replaced at the end is what was there before the result was read.
    summary, existing = store.stat(SUMMARY_KEY), store.stat(INDEX_KEY)
    result = open_result(store)
    current = find_current_index(store, result.summary)
    if isinstance(current, CurrentIndex) and _is_wanted(current.summary, settings):
        clear_up(store)
        return AlreadyBuilt(current.summary)
    if not result.row_count:
        return NothingToIndex()
    log.info(
        "index_begins",
        rows=result.row_count,
        dimensions=result.dimensions,
        m=settings.index_m,
        ef_construction=settings.index_ef_construction,
        because="its M or ef_construction is another one" if isinstance(current, CurrentIndex) else current,
    )
    store.check_access()
    publisher = Publisher(store, result, replacing=existing, summary=summary)
    threads = settings.index_threads or count_cores()
    check_memory(result, settings, threads=threads, memory=find_memory())
    with publisher.scratch_file(settings.index_folder) as path:
        check_room(result, settings, path)
        try:
            index = _build(result, settings, path, threads=threads, publisher=publisher)
        except StoreUnavailable:
            publisher.check_result()  # a merge may have replaced the result by a shorter one
            raise
        publisher.publish(path, index)
    clear_up(store)
    renew_report(store)
    log.info("index_published", object=store.location(INDEX_KEY), bytes=index.bytes, seconds=index.seconds)
    return Built(index)


def _is_wanted(index: IndexSummary, settings: IndexSettings) -> bool:
    return (index.m, index.ef_construction) == (settings.index_m, settings.index_ef_construction)


def _build(result: Result, settings: IndexSettings, path: Path, *, threads: int, publisher: Publisher) -> IndexSummary:
    """Build the index in the file and measure its recall. Raises IndexRefused when that is too small."""
    summary = result.summary
    progress = Progress(result.row_count, interval_seconds=settings.progress_seconds)
    program.on_stop(progress.log)
    progress.step("building")
    seed = f"{summary.fingerprint} {summary.table_digest}"
    rows = sample_rows(result.row_count, queries=settings.index_recall_queries, seed=seed)
    exact = ExactNeighbours(rows, result.picked_vectors(rows), row_count=result.row_count)
    build_index_file(
        result,
        path,
        exact,
        progress,
        m=settings.index_m,
        ef_construction=settings.index_ef_construction,
        threads=threads,
    )
    publisher.check_result()
    progress.step("verifying")
    try:
        recall = measure_recall(
            path,
            exact,
            row_count=result.row_count,
            threads=threads,
            wanted=max(GOOD_RECALL, settings.index_min_recall),
        )
    except IndexDamaged as error:
        raise StoreUnavailable(
            f"the index that was just written is damaged: {error}; the disk may be faulty"
        ) from error
    log.info(
        "index_verified",
        recall=recall.at_10,
        ef_search=recall.ef_search,
        recall_unset_ef=recall.unset_ef_at_10,
        queries=len(rows),
    )
    if recall.at_10 < settings.index_min_recall:
        raise IndexRefused(
            f"the index finds {recall.at_10:.3f} of the 10 nearest rows with ef={recall.ef_search}, and "
            f"EMBEDDER_INDEX_MIN_RECALL is {settings.index_min_recall}; nothing was published; raise "
            f"EMBEDDER_INDEX_EF_CONSTRUCTION ({settings.index_ef_construction}) and EMBEDDER_INDEX_M "
            f"({settings.index_m}), or accept a smaller recall"
        )
    progress.step("publishing")
    return IndexSummary(
        of_fingerprint=summary.fingerprint,
        of_table_digest=summary.table_digest,
        rows=result.row_count,
        bytes=path.stat().st_size,
        m=settings.index_m,
        ef_construction=settings.index_ef_construction,
        recall_at_10=round(recall.at_10, 4),
        recall_queries=len(rows),
        ef_search=recall.ef_search,
        recall_at_10_unset_ef=round(recall.unset_ef_at_10, 4),
        sha256=file_sha256(path),
        seconds=round(progress.seconds, 3),
        built_by=program_version(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def needed_bytes(result: Result, settings: IndexSettings, *, threads: int) -> int:
    """Return the memory in bytes that the build needs."""
    queries = min(settings.index_recall_queries, result.row_count)
    scores = 4 * queries * (BLOCK_BYTES // (4 * result.dimensions))
    index = memory_bytes(result.row_count, result.dimensions, m=settings.index_m, threads=threads)
    return index + PROGRAM_BYTES + 3 * BLOCK_BYTES + 3 * scores


def check_memory(result: Result, settings: IndexSettings, *, threads: int, memory: Memory | None) -> None:
    """Raise SettingsError where this container or machine is too small for the index, and ResourceExhausted where
    other programs use the memory that it needs. `memory` is None where the system does not say.
    """
    needed = needed_bytes(result, settings, threads=threads)
    if memory is None or needed <= memory.available_bytes:
        return
    found = f"an index of {result.row_count} rows with M={settings.index_m} needs {_gigabytes(needed)} of memory"
    if needed > memory.limit_bytes:
        raise SettingsError(
            f"{found}, and this machine or container has {_gigabytes(memory.limit_bytes)}; raise its memory limit, or "
            "lower EMBEDDER_INDEX_M"
        )
    raise ResourceExhausted(
        f"{found}, and {_gigabytes(memory.available_bytes)} of {_gigabytes(memory.limit_bytes)} are free; end other "
        "programs, or raise the memory limit"
    )


def check_room(result: Result, settings: IndexSettings, path: Path) -> None:
    """Raise ResourceExhausted where the disk has no room for the index."""
    needed = file_bytes(result.row_count, result.dimensions, m=settings.index_m)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise ResourceExhausted(
            f"an index of {result.row_count} rows with M={settings.index_m} has {_gigabytes(needed)}, and "
            f"{path.parent} has {_gigabytes(free)} free; make room there, or set EMBEDDER_INDEX_FOLDER to another disk"
        )


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.0f} MB"
