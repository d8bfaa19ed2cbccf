"""The worker's check as a process of `embedder check`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from common.findings import Finding, Subject, Verdict
from embedder.check.worker_check import run_worker_check

if TYPE_CHECKING:
    from pathlib import Path


def test_the_step_that_is_looked_at_is_told_and_not_the_one_that_is_over(tmp_path: Path) -> None:
    ended = (Subject.SETTINGS, Subject.MODEL, Subject.STORE, Subject.MANIFEST, Subject.IMAGES, Subject.RUN)
    lines = [Finding(subject=subject, verdict=Verdict.OK, message="fine").model_dump_json() for subject in ended]
    program = tmp_path / "check.py"
    program.write_text(f"print({chr(10).join(lines)!r})\n")
    steps: list[Subject] = []
    findings = run_worker_check([sys.executable, str(program)], environment=os.environ, skip=(), on_step=steps.append)
    assert len(findings) == len(ended)
    assert steps == [Subject.STORE, Subject.STORE, Subject.MANIFEST, Subject.IMAGES, Subject.RUN]
