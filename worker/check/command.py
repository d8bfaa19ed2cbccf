"""The check from its arguments to its last word."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from common.errors import EmbedderError, ExitCode
from common.findings import Subject, Verdict, worst
from common.logs import log
from common.process.program import Finished
from worker.check.check import BUG, Check
from worker.check.sections import read_sections

if TYPE_CHECKING:
    from common.findings import Finding

STORE_ATTEMPTS = "3"
"""Number of attempts of a request to the store: a person waits, so its fault is told within seconds."""

SKIPPABLE = (Subject.STORE, Subject.MANIFEST, Subject.IMAGES, Subject.MODEL)


class WouldFail(EmbedderError):
    """The worker would end with this exit code."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.exit_code = ExitCode(finding.exit_code)


def run_check(arguments: list[str] | None = None) -> Finished:
    """Try everything, and return how many things were found in order. Raises WouldFail for the worst fault."""
    skip = _parse(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("JOB_COMPLETION_INDEX", "0")
    os.environ.setdefault("AWS_MAX_ATTEMPTS", STORE_ATTEMPTS)
    check = Check(read_sections(), say=_say, skip=skip)
    findings = check.run()
    if (found := worst(findings)) is not None:
        if check.bug is not None and found.exit_code == BUG:
            raise check.bug
        raise WouldFail(found)
    warnings = sum(finding.verdict is Verdict.WARNING for finding in findings)
    return Finished(f"a worker can start: nothing that was looked at would fail, {warnings} warnings")


def _parse(arguments: list[str]) -> frozenset[Subject]:
    parser = argparse.ArgumentParser(prog="python -m worker.check", description="Try what a worker needs.")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=[str(subject) for subject in SKIPPABLE],
        help="do not look at this; may be repeated",
    )
    return frozenset(Subject(name) for name in parser.parse_args(arguments).without)


def _say(finding: Finding) -> None:
    sys.stdout.write(f"{finding.model_dump_json()}\n")
    sys.stdout.flush()
    emit = {Verdict.FAULT: log.error, Verdict.WARNING: log.warning}.get(finding.verdict, log.info)
    emit("checked", subject=str(finding.subject), verdict=str(finding.verdict), message=finding.message)
