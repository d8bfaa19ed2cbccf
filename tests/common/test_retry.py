from __future__ import annotations

import asyncio
import gc
import weakref
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.retry import GivenUp, Pause, RetryPolicy, call, call_async, retry_after_seconds

QUICK = RetryPolicy(first_pause_seconds=0.001, longest_pause_seconds=0.002, attempts=4)


class MayPass(Exception):
    pass


class Sender:
    """Fails `failures` times with `error`, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "answer"

    async def later(self) -> str:
        return self()


def is_passing(error: Exception) -> bool:
    return isinstance(error, MayPass)


def run(sender: Sender, policy: RetryPolicy, *, is_async: bool) -> str:
    if is_async:
        return asyncio.run(call_async(sender.later, policy, may_pass=is_passing))
    return call(sender, policy, may_pass=is_passing)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("failures", [0, 1, 3])
def test_a_fault_that_passes_within_the_attempts_is_not_seen(failures: int, *, is_async: bool) -> None:
    sender = Sender(failures, MayPass("busy"))
    assert run(sender, QUICK, is_async=is_async) == "answer"
    assert sender.calls == failures + 1


@pytest.mark.parametrize("is_async", [False, True])
def test_after_the_last_attempt_the_error_comes_with_the_number_of_attempts(*, is_async: bool) -> None:
    sender = Sender(99, error := MayPass("busy"))
    with pytest.raises(GivenUp, match="busy") as given_up:
        run(sender, QUICK, is_async=is_async)
    assert (given_up.value.error, given_up.value.attempts, sender.calls) == (error, 4, 4)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("failures_before", [0, 2])
def test_an_error_that_cannot_pass_ends_the_call_at_once(failures_before: int, *, is_async: bool) -> None:
    errors: list[Exception] = [*(MayPass("busy") for _ in range(failures_before)), KeyError("a bug")]

    def send() -> str:
        raise errors.pop(0)

    async def send_later() -> str:
        return send()

    def start() -> str:
        if is_async:
            return asyncio.run(call_async(send_later, QUICK, may_pass=is_passing))
        return call(send, QUICK, may_pass=is_passing)

    with pytest.raises(KeyError):
        start()
    assert errors == []


def test_a_failure_that_does_not_count_uses_up_no_attempt() -> None:
    sender = Sender(7, MayPass("a try"))
    policy = RetryPolicy(first_pause_seconds=0.001, longest_pause_seconds=0.001, attempts=1)
    answer = asyncio.run(call_async(sender.later, policy, may_pass=is_passing, counts=lambda _: False))
    assert (answer, sender.calls) == ("answer", 8)


def test_the_patience_counts_from_the_first_failure_and_the_last_pause_ends_with_it() -> None:
    policy = RetryPolicy(first_pause_seconds=0.05, longest_pause_seconds=60, patience_seconds=0.2)
    pauses: list[Pause] = []
    with pytest.raises(GivenUp):
        call(Sender(99, MayPass("busy")), policy, may_pass=is_passing, before_pause=pauses.append)
    assert pauses[-1].failing_seconds + pauses[-1].seconds == pytest.approx(0.2, abs=0.01)
    assert [pause.attempt for pause in pauses] == list(range(1, len(pauses) + 1))


def test_a_pause_that_the_server_asks_for_is_kept_before_the_policys_own() -> None:
    slept: list[float] = []
    policy = RetryPolicy(first_pause_seconds=1, longest_pause_seconds=8, attempts=3)
    sender = Sender(2, MayPass("busy"))
    call(sender, policy, may_pass=is_passing, asked_seconds=lambda _: 100, sleep=slept.append)
    assert 100.5 <= slept[0] <= 101
    assert 101 <= slept[1] <= 102


@given(failures=st.integers(1, 2000), first=st.floats(0.001, 10), longest=st.floats(0.001, 100))
def test_a_pause_doubles_up_to_the_longest_minus_a_random_part(failures: int, first: float, longest: float) -> None:
    pause = RetryPolicy(first_pause_seconds=first, longest_pause_seconds=longest).pause_seconds(failures)
    whole = min(longest, first * 2.0 ** min(failures - 1, 30))
    assert whole / 2 <= pause <= whole


def test_a_stop_is_not_retried() -> None:
    def stopped() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(stopped, QUICK, may_pass=lambda _: True)


@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_that_a_failed_attempt_held_stays_alive_after_the_call(*, is_async: bool) -> None:
    held: list[weakref.ref[Sender]] = []

    def send() -> str:
        part_of_an_answer = Sender(0, MayPass())
        held.append(weakref.ref(part_of_an_answer))
        if len(held) < 4:
            raise MayPass("busy")
        return part_of_an_answer()

    async def send_later() -> str:
        return send()

    gc.disable()
    try:
        if is_async:
            asyncio.run(call_async(send_later, QUICK, may_pass=is_passing))
        else:
            call(send, QUICK, may_pass=is_passing)
        assert [part() for part in held] == [None] * 4
    finally:
        gc.enable()


def test_a_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def seconds(header: str) -> float:
        return retry_after_seconds(header, now=lambda: now)

    assert seconds("120") == 120
    assert seconds(format_datetime(now + timedelta(seconds=90), usegmt=True)) == 90
    assert seconds(format_datetime(now - timedelta(days=1), usegmt=True)) == 0
    for nonsense in ("", "-5", "soon", "1.5", "Fri, 99 Foo 2026", "Fri, 01 Jan 99999 00:00:00 GMT", "9" * 5000, "٣"):
        assert 0 <= seconds(nonsense) <= 999_999_999
