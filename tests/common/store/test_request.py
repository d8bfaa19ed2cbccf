"""Requests to S3 that are sent again, without a network."""

from __future__ import annotations

import time

import pytest

from common.errors import SettingsError, StoreUnavailable
from common.logs import configure_logs, parse_line
from common.store.contract import ObjectAbsent
from common.store.s3 import request
from common.store.s3.errors import StoreFault
from common.store.s3.request import ask


class Failing:
    """A request that fails `failures` times before it is answered."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.attempts, self._failures, self._error = 0, failures, error

    def __call__(self) -> str:
        self.attempts += 1
        if self.attempts <= self._failures:
            raise self._error
        return "answer"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(request, "LONGEST_PAUSE_SECONDS", 0.05)


def test_a_request_is_sent_again_until_it_is_answered() -> None:
    send = Failing(5, StoreFault("busy"))
    assert ask("s3://bucket/key", send) == "answer"
    assert send.attempts == 6


@pytest.mark.parametrize("text", ["1", "3"])
def test_the_settings_limit_the_attempts(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", text)
    send = Failing(9, StoreFault("s3://bucket/key: busy"))
    with pytest.raises(StoreUnavailable) as given_up:
        ask("s3://bucket/key", send)
    assert str(given_up.value) == f"s3://bucket/key: busy (attempt {text}, the last)"
    assert not isinstance(given_up.value, StoreFault)
    assert send.attempts == int(text)


def test_a_limit_that_is_not_a_number_is_a_settings_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
    with pytest.raises(SettingsError, match="AWS_MAX_ATTEMPTS is 'many'"):
        ask("s3://bucket/key", Failing(0, StoreFault("busy")))


def test_the_patience_limits_the_time_from_the_first_failure() -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"\(attempt \d+, the last\)"):
        ask("s3://bucket/key", Failing(10**6, StoreFault("busy")), patience_seconds=0.3)
    assert 0.3 <= time.monotonic() - began < 3


def test_another_error_ends_the_request_at_once() -> None:
    send = Failing(9, ObjectAbsent("s3://bucket/key"))
    with pytest.raises(ObjectAbsent):
        ask("s3://bucket/key", send)
    assert send.attempts == 1


def test_a_request_that_fails_for_long_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs()
    assert ask("s3://bucket/key", Failing(3, StoreFault("busy"))) == "answer"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(request, "SILENT_SECONDS", 0.0)
    assert ask("s3://bucket/key", Failing(3, StoreFault("busy"))) == "answer"
    lines = [parse_line(text) for text in capsys.readouterr().err.splitlines()]
    assert [line.count("attempt") for line in lines if line] == [1, 2, 3]
    for line in lines:
        assert line is not None
        assert (line.level, line.event, line.values["error"]) == ("warning", "store_fault", "busy")
        assert line.number("given_up_in_s") == pytest.approx(120, abs=1)
