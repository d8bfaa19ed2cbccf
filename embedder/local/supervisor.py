"""Runs a program again until no further attempt would help, as a Job does with its pods."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, NamedTuple, get_args

from common.exit_policy import Action, action_for, explain_exit_code
from common.logs import SLOW_SITE, parse_line
from common.process.last_word import Event
from common.retry import RetryPolicy
from embedder.local.failure_lines import FailureLines
from embedder.local.outcome import Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from common.logs import LogLine
    from embedder.local.display import Display
    from embedder.local.processes import Processes

LONGEST_PAUSE_SECONDS = 60
"""The longest pause before an attempt, in seconds."""

COUNTED_FAILURES = "EMBEDDER_COUNTED_FAILURES"
"""The variable that tells a worker how many attempts at its chunk have failed before it."""

_LAST_WORDS = frozenset(get_args(Event))


def retry_policy(*, retries: int, retry_seconds: float) -> RetryPolicy:
    """Return the policy of `embedder run`: pauses like those of a Job, but shorter, because a person may be waiting."""
    return RetryPolicy(
        first_pause_seconds=retry_seconds, longest_pause_seconds=LONGEST_PAUSE_SECONDS, attempts=retries + 1
    )


class Listener(NamedTuple):
    """What is called while a program runs."""

    on_start: Callable[[], None]
    """Called before each attempt."""
    on_line: Callable[[LogLine], None]
    """Called with each log line, except the last word and the lines that say why images failed."""
    on_retry: Callable[[], None]
    """Called when an attempt has failed and another one will follow."""


class Supervisor:
    """Starts attempts, at most `parallelism` at a time, and shows their warnings and errors."""

    def __init__(
        self, policy: RetryPolicy, *, parallelism: int, processes: Processes, log_dir: Path, display: Display
    ) -> None:
        self._policy = policy
        self._slots = asyncio.Semaphore(parallelism)
        self._processes = processes
        self._log_dir = log_dir
        self._display = display

    async def run(
        self, command: Sequence[str], environment: Mapping[str, str], *, chunk: int | None, listener: Listener
    ) -> Ending:
        """Run the command for a chunk, or for the merge where `chunk` is None, and return how its last attempt ended.

        The last attempt is the first one that another attempt would not change, or the last one that the policy allows.
        """
        part = "merge" if chunk is None else f"chunk-{chunk}"
        for attempt in itertools.count(1):
            async with self._slots:
                listener.on_start()
                log_path = self._log_dir / f"{part}-attempt-{attempt}.log"
                told = environment if chunk is None else {**environment, COUNTED_FAILURES: str(attempt - 1)}
                ending = await self._attempt(command, told, log_path=log_path, on_line=listener.on_line)
            if action_for(ending.exit_code) is not Action.RETRY or attempt == self._policy.attempts:
                return ending
            listener.on_retry()
            pause_seconds = self._policy.pause_seconds(attempt)
            self._display.say(
                "warning",
                "retrying",
                f"{ending.message}; attempt {attempt + 1} of {self._policy.attempts} in {pause_seconds:.1f} s",
                chunk=chunk,
                exit_code=ending.exit_code,
            )
            await asyncio.sleep(pause_seconds)
        raise AssertionError("unreachable: the loop ends by return")

    async def _attempt(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log_path: Path,
        on_line: Callable[[LogLine], None],
    ) -> Ending:
        last_word = last_text = ""
        failures = FailureLines()

        def read(text: str) -> None:
            nonlocal last_word, last_text
            last_text = text or last_text
            line = parse_line(text)
            if line is None:
                return
            if line.event in _LAST_WORDS and "exit_code" in line.values:
                last_word = line.values.get("message", "")
                return
            if failures.take(line):
                return
            if line.level in {"warning", "error"} and line.event != SLOW_SITE:  # shown with the progress
                self._display.forward(text)
            on_line(line)

        exit_code = await self._processes.run(command, environment=environment, log_path=log_path, on_line=read)
        message = last_word or _describe_silent_end(exit_code, last_text)
        return Ending(exit_code, message, log_path, failures)


def _describe_silent_end(exit_code: int, last_text: str) -> str:
    """Return what is known about a program that ended without a last word."""
    return explain_exit_code(exit_code) + (f"; its last line: {last_text}" if last_text else "")
