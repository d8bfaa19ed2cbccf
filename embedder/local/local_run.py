"""Plays the cluster on this machine: the Indexed worker Job, then the merge Job.

Processes stand in for pods; environment, exit codes and retries are those of the Jobs. The store is the only state:
whatever ends this program, at any line, the same command goes on from what is there.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.errors import EmbedderError, ExitCode, Stopped
from common.exit_policy import Action, action_for, backoff_seconds, explain_exit_code
from common.indexes import format_indexes
from common.logs import CHUNK_REFUSED, parse_line
from embedder.local.finished_work import FinishedWork, find_finished_work
from embedder.local.processes import Processes
from embedder.local.settings import worker_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from pathlib import Path

    from common.logs import LogLine
    from common.store.contract import Store
    from embedder.local.display import Display
    from embedder.local.progress import RunProgress
    from embedder.local.settings import LocalRunSettings


_CHUNK_FILE = re.compile(r"Images_Embedded_([0-9]{1,6})\.h5")


@dataclass(frozen=True)
class Programs:
    """The commands that a cluster's containers run. -P: a `worker.py` in the caller's folder is not the worker."""

    worker: Sequence[str] = (sys.executable, "-P", "-m", "worker")
    merger: Sequence[str] = (sys.executable, "-P", "-m", "merger")


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended."""

    exit_code: int
    """As a container's: 137 for a process killed by SIGKILL."""
    message: str
    """Its last word, or what is known where it left none."""
    log_path: Path


@dataclass(kw_only=True)
class Outcome:
    """What became of a run that was neither stopped nor failed as a whole."""

    failed: dict[int, Ending] = field(default_factory=dict)
    """The last attempt of each chunk that failed."""
    merge: Ending | None = None
    """The merge's last attempt, None where it was not started."""

    @property
    def exit_code(self) -> int:
        """Return 65 where a failed part cannot succeed as it is, 75 where all failures may pass, 0 without any."""
        endings = [*self.failed.values(), *([self.merge] if self.merge else [])]
        codes = {ending.exit_code for ending in endings} - {ExitCode.OK}
        lasting = codes & {ExitCode.DATA_ERROR, ExitCode.CONFIG_ERROR}
        return max(lasting) if lasting else ExitCode.TEMPORARY_FAILURE if codes else ExitCode.OK


class JobFailed(EmbedderError):
    """A worker ended with 78: every other one would end so too."""

    exit_code = ExitCode.CONFIG_ERROR

    def __init__(self, index: int, ending: Ending) -> None:
        super().__init__(f"{ending.message} (so says chunk {index}, and so would all)")
        self.log_path = ending.log_path


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
        self._log_dir = log_dir
        self._progress = progress
        self._display = display
        self._processes = processes or Processes()
        self._slots = asyncio.Semaphore(settings.parallelism)
        self._outcome = Outcome()
        self._refused: set[int] = set()
        """Chunks that the merge's last attempt refused."""

    def run(self) -> Outcome:
        """Run the Jobs to their end.

        Raises JobFailed (78), Stopped when SIGTERM or SIGINT came, and what the store raises. No process is left
        behind, whatever happens.
        """
        self._store.check_access()
        finished = find_finished_work(self._store)
        with self._display:
            return asyncio.run(
                _until_signalled(self._run(finished), on_first=self._say_stopping, on_further=self._processes.kill_all)
            )

    def _say_stopping(self, number: signal.Signals) -> None:
        message = f"{number.name}: waiting for the workers to stop; a second one kills them"
        self._display.say("warning", "stopping", message, chunk=None)

    async def _run(self, finished: FinishedWork) -> Outcome:
        ticking = asyncio.ensure_future(self._tick())
        try:
            await self._run_workers(finished)
            if self._settings.merge and not self._outcome.failed:
                self._outcome.merge = await self._merge()
                if self._refused and await self._mend():
                    self._outcome.merge = await self._merge()
                if self._outcome.merge.exit_code == ExitCode.OK:
                    self._display.say("info", "merged", self._outcome.merge.message, chunk=None)
        finally:
            ticking.cancel()
        return self._outcome

    async def _mend(self) -> bool:
        """Compute those chunks again that the merge has refused; return whether it is worth another try.

        What is wrong with the rows of a chunk is seen by who reads them: a run that goes on from what is there looks at
        the headers alone.
        """
        indexes = sorted(self._refused & set(self._settings.indexes))
        if not indexes:
            return False
        message = f"the merge refuses chunks {format_indexes(indexes)}; their workers look at them"
        self._display.say("warning", "mending", message, chunk=None)
        self._progress.merge_note = None
        await self._run_chunks(indexes)
        return not self._outcome.failed

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._display.tick_seconds)
            self._display.tick()

    async def _run_workers(self, finished: FinishedWork) -> None:
        """Run the worker of every chunk that needs one.

        Each worker would find out by itself that its chunk is in the store, but takes a second to start. So where
        any of these chunks is in the store, the worker of one of them goes first: if it succeeds, the run is
        the same as before, and the chunks with the same fingerprint need no worker. If it does not, it says why.
        """
        indexes = self._settings.indexes
        witness = finished.witness(indexes)
        if witness is not None:
            await self._run_chunk(witness)
            vouched = {}
            if witness not in self._outcome.failed:
                vouched = finished.vouched_for(witness, indexes)
            for index, rows in vouched.items():
                self._progress.finish(index, rows=rows)
            if len(vouched) > 1:
                message = f"in the store from before: chunks {format_indexes(vouched)}"
                self._display.say("info", "resumed", message, chunk=None)
            indexes = [index for index in indexes if index != witness and index not in vouched]
        await self._run_chunks(indexes)

    async def _run_chunks(self, indexes: Iterable[int]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for index in indexes:
                    group.create_task(self._run_chunk(index))
        except ExceptionGroup as errors:
            # The first to fail has had the others cancelled; one sentence is enough.
            raise errors.exceptions[0] from None

    async def _run_chunk(self, index: int) -> None:
        def observe(line: LogLine) -> None:
            self._progress.observe(index, line)

        def start() -> None:
            self._progress.start(index)

        def wait() -> None:
            self._progress.wait(index)

        environment = worker_environment(
            self._environment,
            index=index,
            parallelism=self._settings.parallelism,
            cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        )
        ending = await self._attempts(
            self._programs.worker, environment, chunk=index, on_start=start, on_line=observe, on_retry=wait
        )
        match action_for(ending.exit_code):
            case Action.SUCCEED:
                self._progress.finish(index)
                self._display.say("info", "finished", ending.message, chunk=index)
            case Action.FAIL_JOB:
                raise JobFailed(index, ending)
            case Action.FAIL_INDEX | Action.RETRY:
                self._progress.fail(index)
                self._outcome.failed[index] = ending
                self._display.say("error", "failed", ending.message, chunk=index, exit_code=ending.exit_code)

    async def _merge(self) -> Ending:
        def observe(line: LogLine) -> None:
            if line.event == CHUNK_REFUSED and (named := _CHUNK_FILE.search(line.values.get("message", ""))):
                self._refused.add(int(named[1]))
            if line.level == "info":
                self._progress.merge_note = " ".join([line.event, *(f"{k}={v}" for k, v in line.values.items())])

        def start() -> None:
            self._refused.clear()
            self._progress.merge_note = "starting"

        environment = {name: value for name, value in self._environment.items() if name != "JOB_COMPLETION_INDEX"}
        return await self._attempts(
            self._programs.merger, environment, chunk=None, on_start=start, on_line=observe, on_retry=start
        )

    async def _attempts(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        chunk: int | None,
        on_start: Callable[[], None],
        on_line: Callable[[LogLine], None],
        on_retry: Callable[[], None],
    ) -> Ending:
        """Run the command until it ends in a way that another attempt would not change, or the limit is reached."""
        for attempt in range(1, self._settings.retries + 2):
            log_path = self._log_dir / f"{'merge' if chunk is None else f'chunk-{chunk}'}-attempt-{attempt}.log"
            async with self._slots:
                on_start()
                ending = await self._attempt(command, environment, log_path=log_path, on_line=on_line)
            if action_for(ending.exit_code) is not Action.RETRY or attempt > self._settings.retries:
                break
            on_retry()
            wait_seconds = backoff_seconds(attempt, first=self._settings.retry_seconds)
            self._display.say(
                "warning",
                "retrying",
                f"{ending.message}; attempt {attempt + 1} of {self._settings.retries + 1} in {wait_seconds:.1f} s",
                chunk=chunk,
                exit_code=ending.exit_code,
            )
            await asyncio.sleep(wait_seconds)
        return ending

    async def _attempt(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log_path: Path,
        on_line: Callable[[LogLine], None],
    ) -> Ending:
        last_word = last_text = ""

        def read(text: str) -> None:
            nonlocal last_word, last_text
            last_text = text or last_text
            line = parse_line(text)
            if line is None:
                return
            if line.event in {"finished", "failed", "stopped"} and "exit_code" in line.values:
                last_word = line.values.get("message", "")
                return
            if line.level in {"warning", "error"}:
                self._display.forward(text)
            on_line(line)

        exit_code = await self._processes.run(command, environment=environment, log_path=log_path, on_line=read)
        return Ending(exit_code, last_word or _without_last_word(exit_code, last_text), log_path)


def _without_last_word(exit_code: int, last_text: str) -> str:
    return explain_exit_code(exit_code) + (f"; its last line: {last_text}" if last_text else "")


async def _until_signalled(
    work: Coroutine[None, None, Outcome],
    *,
    on_first: Callable[[signal.Signals], None],
    on_further: Callable[[], None],
) -> Outcome:
    """Await the work; the first SIGTERM or SIGINT cancels it, which raises Stopped once the processes have ended."""
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        if len(received) > 1:
            on_further()
        else:
            task.cancel()
            on_first(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        code = ExitCode.STOPPED if received[0] is signal.SIGTERM else ExitCode.INTERRUPTED
        raise Stopped(f"stopped by {received[0].name}", exit_code=code) from None
