"""The processes that `embedder run` starts in place of pods. It reads their lines, and stops them as a kubelet does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from common.exit_policy import container_exit_code
from common.process.resources import written_file
from embedder.local import leash

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Mapping, Sequence

GRACE_SECONDS = 30
"""Time in seconds between SIGTERM and SIGKILL: the default of a pod's terminationGracePeriodSeconds."""

_MAX_LINE_BYTES = 1 << 16
"""Size in bytes of the part of a line that is read. The log file has the whole line."""


class Processes:
    """Starts processes and knows which ones are alive. Whoever cancels a `run` stops its process."""

    def __init__(self, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._alive: set[Process] = set()

    async def run(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_path: Path,
        on_line: Callable[[str], None],
    ) -> int:
        """Run the command to its end and return the exit code that a container would have (137 for SIGKILL).

        Everything that the process writes is appended to `log_path`, and `on_line` is called with each line. A process
        whose `run` is cancelled gets SIGTERM, and SIGKILL after the grace period; it has ended before CancelledError is
        raised. Raises ResourceExhausted, and kills the process, where the log file has no room.
        """
        with written_file(log_path), log_path.open("ab") as log_file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(Path(leash.__file__)), str(os.getpid())),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            self._alive.add(process)
            following = asyncio.ensure_future(_follow(process, log_file, on_line))
            try:
                return await asyncio.shield(following)
            except asyncio.CancelledError:
                with suppress(ProcessLookupError):
                    process.terminate()
                await asyncio.wait([following], timeout=self._grace_seconds)
                raise
            finally:
                _kill(process)
                await asyncio.wait([following])
                await _drain(process)
                self._alive.discard(process)

    def kill_all(self) -> None:
        for process in self._alive:
            _kill(process)


async def _follow(process: Process, log_file: BinaryIO, on_line: Callable[[str], None]) -> int:
    rest = b""
    while data := await _output(process).read(1 << 16):
        log_file.write(data)
        log_file.flush()
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[:_MAX_LINE_BYTES]
        for line in lines:
            on_line(_printable(line))
    if rest:
        on_line(_printable(rest))
    return container_exit_code(await process.wait())


async def _drain(process: Process) -> None:
    # asyncio notices the end of a process only when its pipe is empty.
    while await _output(process).read(1 << 16):
        pass
    await process.wait()


def _output(process: Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise TypeError("the process was started without a pipe")
    return process.stdout


def _kill(process: Process) -> None:
    """Kill the process and its child processes, unless it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _printable(line: bytes) -> str:
    # Control characters of a program must not reach the terminal.
    text = line[:_MAX_LINE_BYTES].decode("utf-8", "backslashreplace").rstrip()
    return "".join(each if each.isprintable() else " " for each in text)
