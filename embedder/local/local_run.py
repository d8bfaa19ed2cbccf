"""A run on this machine: the worker for every chunk, then the merge.

Processes take the place of pods. Their environment, exit codes and retries are those of the cluster's Jobs. All state
is in the store: whatever ends this program, at any line, the same command continues from what the store holds.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from common.errors import ExitCode, SettingsError
from common.exit_policy import Action, action_for
from common.indexes import format_indexes
from common.logs import CHUNK_REFUSED
from embedder.local.finished_work import FinishedWork, find_finished_work
from embedder.local.outcome import Ending, JobFailed, Outcome
from embedder.local.processes import Processes
from embedder.local.settings import worker_environment
from embedder.local.signals import until_signalled
from embedder.local.supervisor import Listener, Supervisor, retry_policy
from embedder.local.top_up import TopUp, plan_top_up

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from common.logs import LogLine
    from common.store.contract import Store
    from embedder.local.display import Display
    from embedder.local.programs import Programs
    from embedder.local.progress import RunProgress
    from embedder.local.settings import LocalRunSettings


class LocalRun:
    def __init__(
        self,
        settings: LocalRunSettings,
        *,
        store: Store,
        environment: Mapping[str, str],
        programs: Programs,
        log_dir: Path,
        progress: RunProgress,
        display: Display,
        processes: Processes | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._environment = environment
        self._programs = programs
        self._progress = progress
        self._display = display
        self._processes = processes or Processes()
        self._supervisor = Supervisor(
            retry_policy(retries=settings.retries, retry_seconds=settings.retry_seconds),
            parallelism=settings.parallelism,
            processes=self._processes,
            log_dir=log_dir,
            display=display,
        )
        self._outcome = Outcome()
        self._refused: set[int] = set()
        """The chunks that the last attempt of the merge has refused."""

    def run(self) -> Outcome:
        """Run the workers and the merge to their end.

        Raises JobFailed (78), Stopped on SIGTERM and SIGINT, and the errors of the store. No process is left behind,
        however this method ends.
        """
        self._store.check_access()
        finished = self._find_finished_work()
        with self._display:
            return asyncio.run(
                until_signalled(self._run(finished), on_first=self._say_stopping, on_further=self._processes.kill_all)
            )

    def _find_finished_work(self) -> FinishedWork:
        return find_finished_work(self._store, with_reasons=self._settings.top_up)

    def _say_stopping(self, number: signal.Signals) -> None:
        message = f"{number.name}: waiting for the workers to stop; a second signal kills them"
        self._display.say("warning", "stopping", message, chunk=None)

    async def _run(self, finished: FinishedWork) -> Outcome:
        ticking = asyncio.ensure_future(self._tick())
        try:
            if finished.has_interrupted_merge:
                if not await self._complete_merge():
                    return self._outcome
                finished = await asyncio.to_thread(self._find_finished_work)
            if self._settings.top_up:
                await self._run_top_up(finished)
            else:
                await self._run_workers(finished)
                if self._settings.merge and not self._outcome.failed:
                    await self._finish()
        finally:
            ticking.cancel()
        return self._outcome

    async def _finish(self) -> None:
        self._outcome.merge = await self._merge_and_mend()
        if self._outcome.merge.exit_code == ExitCode.OK:
            self._display.say("info", "merged", self._outcome.merge.message, chunk=None)

    async def _complete_merge(self) -> bool:
        """Run the merge that a kill has interrupted, and return whether it succeeded.

        Only a merge knows which rows are in the result, so it comes before the look at what is left to compute.
        """
        if not self._settings.merge:
            raise SettingsError(
                f"a merge of the run in {self._store.uri} was interrupted, and must be completed before anything else; "
                "leave out --no-merge"
            )
        self._display.say("info", "completing", "a merge was interrupted, it is completed first", chunk=None)
        ending = await self._merge()
        self._progress.merge_note = None
        if ending.exit_code != ExitCode.OK:
            self._outcome.merge = ending
        return ending.exit_code == ExitCode.OK

    async def _run_top_up(self, finished: FinishedWork) -> None:
        """Run the workers of the chunks that have rows to fetch again, and then the merge.

        A chunk whose worker fails keeps its earlier rows, so the others are merged nevertheless.
        """
        indexes = self._settings.indexes
        top_up = plan_top_up(self._store, finished, indexes=indexes, reasons=self._settings.reasons)
        for index in set(indexes) - set(top_up.indexes):
            self._progress.finish(index, rows=finished.rows(index))
        if top_up.indexes:
            message = top_up.sentence(is_undivided=self._settings.chunk_count == 1)
            self._display.say("info", "top_up", message, chunk=None)
            await self._run_chunks(self._with_reference_chunk(top_up, finished))
        else:
            self._outcome.has_nothing_to_fetch = True
            if not finished.has_unmerged:
                return
        self._outcome.has_earlier_rows = not self._outcome.failed.keys() & set(top_up.missing)
        if self._settings.merge and self._outcome.has_earlier_rows:
            await self._finish()

    def _with_reference_chunk(self, top_up: TopUp, finished: FinishedWork) -> list[int]:
        """Return the chunks that need a worker, and one that compares the settings if no other of them does so."""
        reference_chunk = None if top_up.again else finished.reference_chunk(self._settings.indexes)
        return top_up.indexes if reference_chunk is None else sorted({*top_up.indexes, reference_chunk})

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._display.tick_seconds)
            self._display.tick()

    async def _run_workers(self, finished: FinishedWork) -> None:
        """Run the worker of every chunk that needs one.

        Each worker would find out by itself that its chunk is in the store, but it takes seconds to start. So when
        chunks are in the store, one of them is the reference chunk and its worker runs first. If this worker succeeds,
        the settings are those of the earlier command, and the chunks with the same fingerprint need no worker. If it
        fails, it says why.
        """
        indexes = self._settings.indexes
        reference_chunk = finished.reference_chunk(indexes)
        if reference_chunk is not None:
            await self._run_chunk(reference_chunk)
            confirmed: Mapping[int, int | None] = {}
            if reference_chunk not in self._outcome.failed:
                confirmed = finished.same_run_as(reference_chunk, indexes)
            for index, rows in confirmed.items():
                self._progress.finish(index, rows=rows)
            if len(confirmed) > 1:
                message = f"an earlier command has computed chunks {format_indexes(confirmed)}"
                self._display.say("info", "resumed", message, chunk=None)
            indexes = [index for index in indexes if index != reference_chunk and index not in confirmed]
        await self._run_chunks(indexes)

    async def _run_chunks(self, indexes: Iterable[int]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for index in indexes:
                    group.create_task(self._run_chunk(index))
        except ExceptionGroup as errors:
            # The first worker to fail has had the others cancelled, so its error is the one to report.
            raise errors.exceptions[0] from None

    async def _run_chunk(self, index: int) -> None:
        environment = worker_environment(
            self._environment, index=index, parallelism=self._settings.parallelism, cores=_core_count()
        )
        listener = Listener(
            on_start=lambda: self._progress.start(index),
            on_line=lambda line: self._progress.observe(index, line),
            on_retry=lambda: self._progress.wait(index),
        )
        ending = await self._supervisor.run(self._programs.worker, environment, chunk=index, listener=listener)
        match action_for(ending.exit_code):
            case Action.SUCCEED:
                self._progress.finish(index)
                self._display.say("info", "finished", ending.message, chunk=index)
            case Action.FAIL_JOB:
                raise JobFailed(index, ending, chunk_count=self._settings.chunk_count)
            case Action.FAIL_INDEX | Action.RETRY:
                self._progress.fail(index)
                self._outcome.failed[index] = ending
                self._display.say("error", "failed", ending.message, chunk=index, exit_code=ending.exit_code)

    async def _merge_and_mend(self) -> Ending:
        """Merge the chunks. When the merge refuses some of them, compute these chunks again and merge once more.

        Damage among the rows of a chunk shows only when the merge reads them: `find_finished_work` reads the headers.
        """
        ending = await self._merge()
        refused = sorted(self._refused & set(self._settings.indexes))
        if ending.exit_code == ExitCode.OK or not refused:
            return ending
        if len(refused) == 1:
            message = f"the merge refuses chunk {refused[0]}; its worker checks it again"
        else:
            message = f"the merge refuses chunks {format_indexes(refused)}; their workers check them again"
        self._display.say("warning", "mending", message, chunk=None)
        self._progress.merge_note = None
        await self._run_chunks(refused)
        return ending if self._outcome.failed else await self._merge()

    async def _merge(self) -> Ending:
        def start() -> None:
            self._refused.clear()
            self._progress.merge_note = "starting"

        def observe(line: LogLine) -> None:
            if line.event == CHUNK_REFUSED and (chunk := line.count("chunk")) is not None:
                self._refused.add(chunk)
            if line.level == "info":
                self._progress.merge_note = " ".join([line.event, *(f"{k}={v}" for k, v in line.values.items())])

        environment = {name: value for name, value in self._environment.items() if name != "JOB_COMPLETION_INDEX"}
        listener = Listener(on_start=start, on_line=observe, on_retry=start)
        return await self._supervisor.run(self._programs.merger, environment, chunk=None, listener=listener)


def _core_count() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
