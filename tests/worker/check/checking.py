"""Runs `python -m worker.check` as the pod of a check does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.findings import Finding, Subject, Verdict, read_finding
from tests.worker.worker_process import worker_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS = 60
"""Longest time that a test waits for a check, in seconds."""


@dataclass(frozen=True)
class Checked:
    exit_code: int
    out: str
    log: str

    @property
    def findings(self) -> dict[Subject, Finding]:
        found = [read_finding(line) for line in self.out.splitlines()]
        return {finding.subject: finding for finding in found if finding is not None}

    def __getitem__(self, subject: Subject) -> Finding:
        return self.findings[subject]

    @property
    def faults(self) -> dict[Subject, int]:
        """The exit code of each fault, by subject."""
        return {
            subject: finding.exit_code for subject, finding in self.findings.items() if finding.verdict is Verdict.FAULT
        }


def run_check(
    *,
    without: Sequence[str] = ("model",),
    prefix: Sequence[str] = (),
    **settings: Any,  # noqa: ANN401 - of any type
) -> Checked:
    """Run the check to its end, behind the command `prefix`. The settings are given by their Python names.

    By default it leaves the model out.
    """
    arguments = [word for subject in without for word in ("--without", subject)]
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "worker.check", *arguments],
        env=worker_environment(**settings),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd="/",
    )
    return Checked(done.returncode, done.stdout, done.stderr)
