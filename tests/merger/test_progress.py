"""The log lines of a running merge."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from common.logs import LogLine, configure_logs, parse_line
from merger.progress import Progress, Step

if TYPE_CHECKING:
    import pytest


def test_the_progress_is_logged_every_few_seconds_in_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs()
    said: list[LogLine] = []

    def wait_for(step: Step) -> None:
        deadline = time.monotonic() + 60
        while not any(line.event == "merging" and line.values["step"] == step for line in said):
            assert time.monotonic() < deadline
            time.sleep(0.01)
            said.extend(line for text in capsys.readouterr().err.splitlines() if (line := parse_line(text)))

    with Progress(interval_seconds=0.02) as progress:
        for step in (Step.HEADERS, Step.PUBLISHING, Step.VERIFYING):
            progress.step = step
            wait_for(step)
    time.sleep(0.1)
    capsys.readouterr()
    time.sleep(0.2)
    assert not capsys.readouterr().err
