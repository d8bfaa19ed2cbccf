from __future__ import annotations

import errno
import threading
import time

import pytest

from common.errors import ManifestError, ResourceExhausted
from common.process.step import NotInTime, Step


def test_a_step_runs_beside_others_and_returns_what_its_work_returns() -> None:
    meeting = threading.Barrier(2)
    steps = [Step("step", lambda: meeting.wait(10)) for _ in range(2)]
    assert sorted(step.result(seconds=10, late="late") for step in steps) == [0, 1]


def test_the_error_of_the_work_is_raised_and_lack_of_resources_is_one_of_ours() -> None:
    def wrong() -> None:
        raise ManifestError("no such list")

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ManifestError, match="no such list"):
        Step("wrong", wrong).result(seconds=10, late="late")
    with pytest.raises(ResourceExhausted):
        Step("full", full).result(seconds=10, late="late")


def test_a_bug_stays_what_it_is_even_a_timeout() -> None:
    def bug() -> None:
        raise TimeoutError("within the work")

    with pytest.raises(TimeoutError, match="within the work"):
        Step("bug", bug).result(seconds=10, late="late")


def test_work_that_takes_too_long_is_given_up_by_its_own_clock() -> None:
    release = threading.Event()
    step = Step("slow", lambda: release.wait(10))
    time.sleep(0.2)
    began = time.monotonic()
    with pytest.raises(NotInTime, match="the store does not answer"):
        step.result(seconds=0.1, late="the store does not answer")
    assert time.monotonic() - began < 0.1
    release.set()
    assert step.result(seconds=10, late="late")
