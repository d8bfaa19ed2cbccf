"""Runs the worker's check as a process, and reads what it finds."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

from common.errors import ExitCode
from common.findings import Finding, Subject, Verdict, exit_code_of, looked_at_now, read_finding
from common.logs import parse_line
from common.process.resources import new_temporary_folder
from embedder.local.processes import Processes
from embedder.local.signals import until_signalled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

GRACE_SECONDS = 2.0
"""Time in seconds that a stopped check has to end. It leaves nothing that matters."""

LAST_LINES = 5
"""Number of lines of a program that broke off that are shown."""


def run_worker_check(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    skip: Collection[Subject],
    on_step: Callable[[Subject], object],
) -> list[Finding]:
    """Return what the worker's check finds; `on_step` is called with what is looked at next.

    A check that breaks off is a fault of its own. Raises Stopped.
    """
    findings: list[Finding] = []
    others: list[str] = []

    def read(line: str) -> None:
        finding = read_finding(line)
        if finding is not None:
            findings.append(finding)
            if (subject := looked_at_now(findings)) is not None:
                on_step(subject)
        elif parse_line(line) is None and line:
            others.append(line)

    without = [word for subject in skip for word in ("--without", str(subject))]
    processes = Processes(grace_seconds=GRACE_SECONDS)
    folder = new_temporary_folder("embedder-check-")
    try:
        code = asyncio.run(
            until_signalled(
                processes.run([*command, *without], environment=environment, log_path=folder / "log", on_line=read),
                on_first=lambda _: None,
                on_further=processes.kill_all,
            )
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if code != exit_code_of(findings):
        findings.append(
            Finding(
                subject=Subject.PROGRAM,
                verdict=Verdict.FAULT,
                message=f"the worker's check broke off with exit code {code}: "
                f"{' / '.join(others[-LAST_LINES:]) or 'without a word'}",
                exit_code=code or ExitCode.TEMPORARY_FAILURE,
            )
        )
    return findings
