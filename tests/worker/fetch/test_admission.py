from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import pytest

from common.errors import SourceUnavailable
from common.format.reasons import Reason
from worker.fetch.admission import Admission, Admit, Decision, HostGivenUp, NetworkGivenUp, Probe, Wait
from worker.fetch.circuit import FAILURES_TO_OPEN
from worker.fetch.failures import Unanswered
from worker.fetch.host_circuits import LONGEST_PAUSE_SECONDS
from worker.fetch.image_url import parse_http_url
from worker.fetch.known_good_urls import MAX_HOSTS, KnownGoodUrls
from worker.fetch.request import Request

BUSY = Unanswered(Reason.SERVER_ERROR, "503", may_pass=True)
DEAD = Unanswered(Reason.TIMEOUT, "took too long", may_pass=True)

Kind = TypeVar("Kind", bound=Decision)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission(patience_seconds=90, clock=clock)


def url_of(host: str) -> Request:
    return Request(parse_http_url(f"http://{host}/a.jpg"), is_trusted=False, host=host)


def fail(admission: Admission, host: str, *, times: int = FAILURES_TO_OPEN, failure: Unanswered = BUSY) -> None:
    for _ in range(times):
        admission.note_failure(host, failure)


def ask_in_vain(
    admission: Admission, clock: Clock, host: str, failure: Unanswered, *, seconds: float
) -> tuple[int, Decision]:
    """Make requests that all fail, as often as the admission allows. Return their number and the last decision."""
    end = clock.now + seconds
    count = 0
    decision: Decision = Admit()
    while clock.now < end:
        decision = admission.decide(host)
        match decision:
            case Wait(wait):
                clock.now += wait
            case HostGivenUp() | NetworkGivenUp():
                break
            case Admit() | Probe():
                count += 1
                admission.note_failure(host, failure)
                admission.note_end(host)
                clock.now += 0.01
    return count, decision


def is_a(kind: type[Kind], decision: Decision) -> Kind:
    assert isinstance(decision, kind)
    return decision


def test_a_host_is_asked_freely_until_it_has_failed_ten_times_in_a_row(admission: Admission) -> None:
    assert admission.decide("b") == Admit()
    fail(admission, "a", times=9)
    assert admission.decide("a") == Admit()
    admission.note_answer(url_of("a"))
    fail(admission, "a", times=9)
    assert admission.decide("a") == Admit()
    fail(admission, "a", times=1)
    assert admission.decide("a") == Wait(1)
    assert admission.decide("b") == Admit()


def test_after_the_pause_one_request_is_the_probe_and_the_others_wait_for_it(
    admission: Admission, clock: Clock
) -> None:
    fail(admission, "a")
    clock.now += 1
    assert admission.decide("a") == Admit(is_probe=True)
    assert is_a(Wait, admission.decide("a")).seconds > 0
    admission.note_answer(url_of("a"))
    assert admission.decide("a") == admission.decide("a") == Admit()


def test_a_probe_that_was_cancelled_lets_the_next_request_be_the_probe(admission: Admission, clock: Clock) -> None:
    fail(admission, "a")
    clock.now += 1
    assert admission.decide("a") == Admit(is_probe=True)
    admission.note_end("a")
    assert admission.decide("a") == Admit(is_probe=True)


def test_a_host_with_a_known_good_url_is_probed_by_that_url(admission: Admission, clock: Clock) -> None:
    admission.note_answer(url_of("a"))
    fail(admission, "a")
    clock.now += 1
    assert admission.decide("a") == Probe(url_of("a"))


def test_pauses_grow_so_that_a_dead_host_is_asked_a_few_times_only(admission: Admission, clock: Clock) -> None:
    fail(admission, "a")
    count, _ = ask_in_vain(admission, clock, "a", BUSY, seconds=89)
    assert count < 10


def test_a_host_that_asks_for_a_longer_pause_gets_it(admission: Admission) -> None:
    admission.decide("a")
    admission.decide("b")
    fail(admission, "a", failure=Unanswered(BUSY.reason, BUSY.detail, may_pass=True, retry_after_seconds=45))
    assert admission.decide("a") == Wait(45)


def test_a_host_is_given_up_after_the_patience_and_taken_back_when_it_answers(
    admission: Admission, clock: Clock
) -> None:
    admission.decide("b")
    admission.note_answer(url_of("b"))
    fail(admission, "a")
    _, decision = ask_in_vain(admission, clock, "a", BUSY, seconds=1000)
    failed = is_a(HostGivenUp, decision).image_failed()
    assert 1090 <= clock.now <= 1090 + LONGEST_PAUSE_SECONDS
    assert failed.reason == Reason.SERVER_ERROR
    assert "a was given up after" in failed.detail
    clock.now += LONGEST_PAUSE_SECONDS
    assert admission.decide("a") == Admit(is_probe=True)
    is_a(HostGivenUp, admission.decide("a"))
    admission.note_answer(url_of("a"))
    assert admission.decide("a") == Admit()


def test_a_pause_of_the_program_itself_gives_no_host_up(admission: Admission, clock: Clock) -> None:
    fail(admission, "a", failure=DEAD)
    clock.now += 1000
    assert admission.decide("a") == Admit(is_probe=True)


def test_when_every_host_fails_for_longer_than_the_patience_the_images_are_not_to_blame(
    admission: Admission, clock: Clock
) -> None:
    def ask_many() -> Decision:
        for number in range(10_000):
            _, decision = ask_in_vain(admission, clock, f"host{number}", DEAD, seconds=0.01)
            if isinstance(decision, HostGivenUp | NetworkGivenUp):
                return decision
        return Admit()

    is_a(NetworkGivenUp, ask_many())
    with pytest.raises(SourceUnavailable, match="took too long"):
        admission.check_network()
    assert 1090 <= clock.now <= 1100


def test_the_only_host_of_a_run_is_the_whole_network(admission: Admission, clock: Clock) -> None:
    admission.decide("a")
    admission.note_answer(url_of("a"))
    fail(admission, "a", failure=DEAD)
    _, decision = ask_in_vain(admission, clock, "a", DEAD, seconds=1000)
    is_a(NetworkGivenUp, decision)
    with pytest.raises(SourceUnavailable):
        admission.check_network()


def test_one_dead_host_among_others_is_not_the_whole_network(admission: Admission, clock: Clock) -> None:
    admission.decide("b")
    admission.note_answer(url_of("b"))
    fail(admission, "a", failure=DEAD)
    _, decision = ask_in_vain(admission, clock, "a", DEAD, seconds=1000)
    is_a(HostGivenUp, decision)


def test_an_answer_of_any_host_shows_that_the_network_works(admission: Admission, clock: Clock) -> None:
    for number in range(300):
        host = f"host{number}"
        if admission.decide(host) == Admit():
            admission.note_failure(host, DEAD)
        if number % 8 == 0:
            admission.note_answer(url_of("b"))
        clock.now += 1
    assert admission.decide("c") == Admit()


def test_known_good_urls_come_newest_first_and_those_of_failing_hosts_last() -> None:
    known = KnownGoodUrls()
    for host in ("a", "b", "c", "a"):
        known.note_answer(url_of(host))
    assert known.newest_first(is_failing=lambda host: host == "c") == [url_of("a"), url_of("b"), url_of("c")]
    for number in range(MAX_HOSTS):
        known.note_answer(url_of(f"host{number}"))
    assert known.of("a") is None
    assert len(known.newest_first(is_failing=lambda _: False)) == MAX_HOSTS
