"""The start and the end of `embedder run`: from its settings to a run, and from the run's outcome to a report."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from common.errors import ExitCode, SettingsError, Stopped
from common.logs import configure_logs
from common.process.resources import new_temporary_folder, written_file
from common.run.state import find_finished
from common.settings import ENV_PREFIX
from common.store import open_store
from embedder.local import report
from embedder.local.display import open_display
from embedder.local.finished_work import find_finished_work
from embedder.local.local_run import LocalRun
from embedder.local.outcome import JobFailed
from embedder.local.programs import check_worker_libraries, own_name
from embedder.local.progress import Phase, RunProgress
from embedder.local.top_up import with_chunk_count_of_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.store.contract import Store
    from embedder.local.display import Display
    from embedder.local.outcome import Outcome
    from embedder.local.programs import Programs
    from embedder.local.settings import LocalRunSettings


def run_here(settings: LocalRunSettings, programs: Programs) -> int:
    """Run the workers and the merge, show how far they are, print a report, and return the exit code.

    Raises LibrariesMissing, Stopped, and what `LocalRun.run` and `report_result` raise. After each of these errors the
    same command can continue the run.
    """
    check_worker_libraries()
    configure_logs(settings.log_level)
    store = open_store(settings.run_uri)
    if settings.top_up:
        settings = with_chunk_count_of_run(settings, store)
    progress = RunProgress(settings.indexes, is_undivided=settings.chunk_count == 1)
    display = open_display(progress, sys.stderr)
    errors, result = (
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True),
        Console(highlight=False, markup=False, soft_wrap=True),
    )
    if settings.model == "untrained":
        display.say("warning", "untrained", report.UNTRAINED, chunk=None)
    log_dir = _make_log_dir(settings)
    run = LocalRun(
        settings,
        store=store,
        environment=_environment(settings, display),
        programs=programs,
        log_dir=log_dir,
        progress=progress,
        display=display,
    )
    keep_logs = bool(settings.log_dir)
    try:
        outcome = run.run()
        keep_logs |= outcome.exit_code != ExitCode.OK
    except JobFailed as failure:
        keep_logs = True
        report.report_log(errors, failure.log_path)
        raise
    except Stopped as stop:
        raise Stopped(f"{stop}; {_how_far(progress)}", exit_code=stop.exit_code) from None
    finally:
        if not keep_logs:
            shutil.rmtree(log_dir, ignore_errors=True)
    command = [own_name(), *sys.argv[1:]]
    if outcome.exit_code != ExitCode.OK:
        report.report_failures(errors, outcome, command, chunk_count=settings.chunk_count)
        return outcome.exit_code
    if outcome.has_nothing_to_fetch:
        report.report_nothing_to_fetch(result, store, settings.reasons)
    failures = _report_success(result, outcome, settings, store, skipped=progress.skipped)
    report.report_top_up(result, failures, settings.reasons, command + ([] if settings.top_up else ["--top-up"]))
    return outcome.exit_code


def _report_success(
    console: Console, outcome: Outcome, settings: LocalRunSettings, store: Store, *, skipped: str
) -> Mapping[str, int]:
    """Print where the vectors are, and return the number of failed images by reason that a top-up can fetch."""
    if outcome.merge is not None:
        failures = report.report_result(
            console,
            store,
            manifest_uri=settings.manifest_uri,
            skipped=skipped,
            untrained=settings.model == "untrained",
        )
        return failures if _can_be_topped_up(store) else {}
    if outcome.has_nothing_to_fetch:
        return {}
    report.report_chunks(console, store)
    return find_finished_work(store, with_reasons=True).failures_by_reason(settings.indexes)


def _can_be_topped_up(store: Store) -> bool:
    """Return whether the result says which rows are those of which chunk. One of an earlier version does not."""
    run = find_finished(store)
    return run is not None and bool(run.header.table_digest)


def _environment(settings: LocalRunSettings, display: Display) -> Mapping[str, str]:
    """Return the environment of the programs: that of this process, and two settings with defaults of their own."""
    environment = {f"{ENV_PREFIX}PROGRESS_SECONDS": display.worker_progress_seconds} | os.environ
    return environment | {f"{ENV_PREFIX}CHUNK_COUNT": str(settings.chunk_count)}


def _make_log_dir(settings: LocalRunSettings) -> Path:
    # The logs are not in the run's folder: the run may be in a bucket, and its objects are an interface.
    if not settings.log_dir:
        return new_temporary_folder("embedder-logs-")
    folder = Path(settings.log_dir).expanduser()
    try:
        with written_file(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"EMBEDDER_LOG_DIR is {folder}: {error.strerror}; choose another folder") from error
    return folder


def _how_far(progress: RunProgress) -> str:
    done = progress.chunks(Phase.DONE)
    if not done:  # chunks of an earlier command are counted only when the reference chunk's worker has succeeded
        return "the same command continues from what is in the store"
    there = "all images are" if progress.is_undivided else f"{done:,} of {progress.chunk_count:,} chunks are"
    return f"{there} in the store, and the same command continues from there"
