from __future__ import annotations

from dataclasses import dataclass

import pytest

from common.errors import SourceUnavailable
from common.format.reasons import Reason
from worker.fetch.circuit_breaker import FAILURES_TO_OPEN, LONGEST_HOST_PAUSE_SECONDS, CircuitBreaker
from worker.rows import ImageFailed

BUSY = ImageFailed(Reason.SERVER_ERROR, "503")
DEAD = ImageFailed(Reason.TIMEOUT, "took too long")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock=clock, patience_seconds=90)


def fail(breaker: CircuitBreaker, host: str, *, times: int = FAILURES_TO_OPEN, failure: ImageFailed = BUSY) -> None:
    for _ in range(times):
        breaker.fail(host, failure)


def keep_trying(breaker: CircuitBreaker, clock: Clock, host: str, failure: ImageFailed, *, seconds: float) -> int:
    """Ask as often as the breaker allows, always in vain; return how often that was."""
    end = clock.now + seconds
    count = 0
    while clock.now < end:
        if wait := breaker.admit(host):
            clock.now += wait
            continue
        count += 1
        breaker.fail(host, failure)
        breaker.leave(host)
        clock.now += 0.01
    return count


def test_a_host_is_asked_freely_until_it_has_failed_ten_times_in_a_row(breaker: CircuitBreaker) -> None:
    assert breaker.admit("b") == 0
    fail(breaker, "a", times=9)
    assert breaker.admit("a") == 0
    breaker.succeed("a")
    fail(breaker, "a", times=9)
    assert breaker.admit("a") == 0
    fail(breaker, "a", times=1)
    assert breaker.admit("a") == 1
    assert breaker.admit("b") == 0


def test_after_the_pause_one_request_tries_and_the_others_wait_for_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, "a")
    clock.now += 1
    assert breaker.admit("a") == 0
    assert breaker.admit("a") > 0
    breaker.succeed("a")
    assert breaker.admit("a") == breaker.admit("a") == 0


def test_a_try_that_was_cancelled_lets_the_next_one_try(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, "a")
    clock.now += 1
    assert breaker.admit("a") == 0
    breaker.leave("a")
    assert breaker.admit("a") == 0


def test_pauses_grow_so_that_a_dead_host_is_asked_a_few_times_only(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, "a")
    assert keep_trying(breaker, clock, "a", BUSY, seconds=89) < 10


def test_a_host_that_asks_for_a_longer_pause_gets_it(breaker: CircuitBreaker) -> None:
    breaker.admit("a")
    breaker.admit("b")
    for _ in range(FAILURES_TO_OPEN):
        breaker.fail("a", BUSY, retry_after=45)
    assert breaker.admit("a") == 45


def test_a_host_is_given_up_after_the_patience_and_taken_back_when_it_answers(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    breaker.admit("b")
    breaker.succeed("b")
    fail(breaker, "a")
    with pytest.raises(ImageFailed) as caught:
        keep_trying(breaker, clock, "a", BUSY, seconds=1000)
    assert 1090 <= clock.now <= 1090 + LONGEST_HOST_PAUSE_SECONDS
    assert caught.value.reason == Reason.SERVER_ERROR
    assert "a was given up after" in caught.value.detail
    clock.now += LONGEST_HOST_PAUSE_SECONDS
    assert breaker.admit("a") == 0
    with pytest.raises(ImageFailed):
        breaker.admit("a")
    breaker.succeed("a")
    assert breaker.admit("a") == 0


def test_a_pause_of_the_program_itself_gives_nobody_up(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, "a", failure=DEAD)
    clock.now += 1000
    assert breaker.admit("a") == 0


def test_when_every_host_fails_for_longer_than_the_patience_the_images_are_not_to_blame(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    def ask_many() -> None:
        for number in range(10_000):
            keep_trying(breaker, clock, f"host{number}", DEAD, seconds=0.01)

    with pytest.raises(SourceUnavailable, match="took too long"):
        ask_many()
    assert 1090 <= clock.now <= 1100


def test_the_only_host_of_a_run_that_dies_is_all_there_is(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.admit("a")
    breaker.succeed("a")
    fail(breaker, "a", failure=DEAD)
    with pytest.raises(SourceUnavailable):
        keep_trying(breaker, clock, "a", DEAD, seconds=1000)


def test_one_dead_host_among_others_is_not_everything(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.admit("b")
    breaker.succeed("b")
    fail(breaker, "a", failure=DEAD)
    with pytest.raises(ImageFailed):
        keep_trying(breaker, clock, "a", DEAD, seconds=1000)


def test_an_answer_of_any_host_shows_that_not_everything_fails(breaker: CircuitBreaker, clock: Clock) -> None:
    for number in range(300):
        host = f"host{number}"
        if not breaker.admit(host):
            breaker.fail(host, DEAD)
        if number % 8 == 0:
            breaker.succeed("b")
        clock.now += 1
    assert breaker.admit("c") == 0
