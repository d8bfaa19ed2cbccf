"""A chunk with images of slow sites: they are fetched at the sites' pace, and those that have no turn are deferred."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.image_server import answer, first, image_server, redirect, stall
from tests.limited_site import Allowance, at_date, in_seconds
from tests.worker.images import encoded, photo
from tests.worker.pipelines import run_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.image_server import ImageServer
    from worker.pipeline import Pipeline

JPEG = encoded(photo(), "JPEG")


def images_of(server: ImageServer, count: int, allowance: Allowance | None = None, *, name: str = "") -> list[str]:
    behaviour = answer(JPEG) if allowance is None else allowance.limit(answer(JPEG))
    return [server.on(f"/{name}{number}.jpg", behaviour) for number in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "retry_after"),
    [(429, lambda: None), (429, in_seconds(1)), (429, at_date(2)), (503, in_seconds(1)), (503, at_date(2))],
    ids=["429", "429 and seconds", "429 and a date", "503 and seconds", "503 and a date"],
)
def test_a_site_with_an_allowance_gives_all_its_images(status: int, retry_after: Callable[[], str | None]) -> None:
    with image_server() as server:
        site = Allowance(40, burst=40, status=status, retry_after=retry_after)
        outcome = run_pipeline(images_of(server, 60, site), fetch_attempts=1, max_failure_ratio=0)
        assert outcome.failures == {}
        assert 0 < len(site.refused) <= 20


@pytest.mark.slow
def test_a_site_that_limits_with_503_and_names_no_pause_gives_all_its_images_too() -> None:
    with image_server() as server:
        site = Allowance(40, burst=40, status=503)
        outcome = run_pipeline(images_of(server, 80, site), max_failure_ratio=0)
        assert outcome.failures == {}
        assert site.refused


def test_broken_images_do_not_slow_their_site() -> None:
    pipelines: list[Pipeline] = []
    with image_server() as server:
        broken = [server.on(f"/broken{number}.jpg", answer(status=503)) for number in range(4)]
        urls = [each for number in range(4) for each in [*images_of(server, 20, name=f"{number}-"), broken[number]]]
        outcome = run_pipeline(urls, fetch_attempts=3, max_failure_ratio=0.1, while_running=pipelines.append)
    assert set(outcome.failures) == set(broken)
    assert set(outcome.reasons.values()) == {"server_error"}
    assert not pipelines[0].had_slow_sites


def test_a_fast_site_is_done_while_the_images_of_a_slow_one_are_deferred() -> None:
    with image_server() as slow, image_server() as fast:
        site = Allowance(1)
        # The slow site's images come first, and are more than may be under way.
        urls = [*images_of(slow, 1500, site), *images_of(fast, 100)]
        outcome = run_pipeline(urls, slow_site_seconds=0.5, max_failure_ratio=0, fetch_attempts=1)
        assert set(outcome.reasons.values()) == {"deferred"}
        assert all(url.startswith(slow.origin) for url in outcome.failures)
        assert len(outcome.failures) == 1500 - len(site.allowed)
        detail = next(iter(outcome.failures.values()))
        assert f"127.0.0.1:{slow.port} is asked 0." in detail
        assert "EMBEDDER_SLOW_SITE_SECONDS" in detail


def test_a_site_that_refuses_everything_has_all_its_images_deferred() -> None:
    with image_server() as server:
        site = Allowance(0, burst=0)
        outcome = run_pipeline(images_of(server, 50, site), slow_site_seconds=1, max_failure_ratio=0)
        assert list(outcome.reasons.values()) == ["deferred"] * 50
        assert len(site.refused) < 60  # on a busy machine all are asked before the first answer is heard


def test_an_image_that_is_always_refused_holds_nothing_up() -> None:
    with image_server() as server:
        urls = images_of(server, 300)
        urls.insert(7, server.on("/refused.jpg", answer(status=429)))
        began = time.monotonic()
        outcome = run_pipeline(urls, slow_site_seconds=0.5)
        assert outcome.reasons == {server.url("/refused.jpg"): "deferred"}
        assert time.monotonic() - began < 10
        assert server.count("/refused.jpg") < 5


def test_a_pause_that_a_site_asks_for_is_kept_by_all_its_images_and_by_no_other_site() -> None:
    with image_server() as slow, image_server() as fast:
        site = Allowance(1000, burst=20, retry_after=in_seconds(2))
        site.rate = 5
        outcome = run_pipeline([*images_of(slow, 25, site), *images_of(fast, 50)], slow_site_seconds=30)
        assert outcome.failures == {}
        refused = site.refused[0]
        later = [each for each in sorted(site.allowed + site.refused) if each > refused + 0.5]
        assert later[0] >= refused + 2


@pytest.mark.slow
def test_403_is_a_refusal_at_a_site_that_answers_the_same_image_later() -> None:
    with image_server() as server:
        site = Allowance(40, burst=40, status=403)
        outcome = run_pipeline(images_of(server, 80, site), max_failure_ratio=0)
        assert outcome.failures == {}


@pytest.mark.slow
def test_403_is_final_at_a_site_that_answers_the_same_images_so_again() -> None:
    with image_server() as server:
        good = images_of(server, 30)
        bad = [server.on(f"/bad{number}.jpg", answer(status=403)) for number in range(20)]
        outcome = run_pipeline([*good[:15], *bad, *good[15:]])
        assert outcome.reasons == dict.fromkeys(bad, "access_denied")
        assert sum(server.count(f"/bad{number}.jpg") for number in range(20)) <= 22


def test_single_answers_403_are_final_without_another_request() -> None:
    with image_server() as server:
        urls = images_of(server, 60)
        bad = [server.on(f"/bad{number}.jpg", answer(status=403)) for number in range(3)]
        for number, url in enumerate(bad):
            urls.insert(20 * number + 10, url)
        began = time.monotonic()
        outcome = run_pipeline(urls)
        assert outcome.reasons == dict.fromkeys(bad, "access_denied")
        assert [server.count(f"/bad{number}.jpg") for number in range(3)] == [1, 1, 1]
        assert time.monotonic() - began < 8


def test_an_image_that_hangs_at_a_slow_site_ends_with_its_own_failure() -> None:
    with image_server() as server:
        site = Allowance(2)
        urls = [server.on("/hangs.jpg", stall()), *images_of(server, 30, site)]
        outcome = run_pipeline(urls, slow_site_seconds=0.5, read_timeout_seconds=3, fetch_attempts=3)
        reasons = dict(outcome.reasons)
        assert reasons.pop(server.url("/hangs.jpg")) == "timeout"
        assert set(reasons.values()) == {"deferred"}


def test_a_redirect_to_a_slow_site_is_charged_to_that_site() -> None:
    with image_server() as slow, image_server() as fast:
        site = Allowance(1)
        targets = images_of(slow, 30, site)
        urls = [fast.on(f"/{number}.jpg", redirect(target)) for number, target in enumerate(targets)]
        urls += images_of(fast, 50, name="own")
        outcome = run_pipeline(urls, slow_site_seconds=0.5, max_failure_ratio=0)
        assert set(outcome.reasons.values()) == {"deferred"}
        assert len(site.refused) < 60  # on a busy machine all are asked before the first answer is heard
        assert max(fast.count(f"/{number}.jpg") for number in range(30)) <= 2


def test_a_fixed_rate_is_kept() -> None:
    with image_server() as server:
        urls = images_of(server, 20)
        began = time.monotonic()
        outcome = run_pipeline(urls, site_rates=f"127.0.0.1:{server.port}=10")
        assert outcome.failures == {}
        # Between 20 requests lie 19 tenths of a second. A worker that is late may make up for one of them.
        assert time.monotonic() - began >= 1.8


def test_an_image_that_is_refused_twice_uses_up_no_attempt() -> None:
    with image_server() as server:
        urls = images_of(server, 20)
        twice = server.on("/twice.jpg", first(2, answer(status=429), then=answer(JPEG)))
        outcome = run_pipeline([*urls, twice], fetch_attempts=1)
        assert outcome.failures == {}
        assert server.count("/twice.jpg") == 3
