"""Which hosts are one site, and when a site has a turn."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.errors import SettingsError
from common.site_names import site_name
from tests.worker.fetch.fetching import worker_settings
from worker.fetch.image_url import parse_http_url
from worker.fetch.rows_ahead import Place, RowsAhead
from worker.fetch.sites import UNHEARD_SECONDS, Site, Sites
from worker.fetch.slots import Slots
from worker.rows import Row


@pytest.mark.parametrize(
    ("host", "site"),
    {
        "farm1.staticflickr.com": "staticflickr.com",
        "staticflickr.com": "staticflickr.com",
        "images.example.co.uk": "example.co.uk",
        "someone.github.io": "someone.github.io",
        "open-images-dataset.s3.amazonaws.com": "open-images-dataset.s3.amazonaws.com",
        "a.b.s3.eu-west-1.amazonaws.com": "b.s3.eu-west-1.amazonaws.com",
        "www.xn--85x722f.xn--55qx5d.cn": "xn--85x722f.xn--55qx5d.cn",
        "www.example.com.": "example.com",
        "co.uk": "co.uk:80",
        "localhost": "localhost:80",
        "10.0.0.1": "10.0.0.1:80",
        "2001:db8::1": "[2001:db8::1]:80",
    }.items(),
)
def test_a_site_is_a_registered_domain_or_an_address_with_its_port(host: str, site: str) -> None:
    assert site_name(host, 80) == site


def site_of(sites: Sites, url: str) -> Site:
    return sites.of(parse_http_url(url))


def test_all_hosts_and_ports_of_a_domain_are_one_site_and_each_port_of_an_address_is_one() -> None:
    sites = Sites(worker_settings().fetch)
    assert site_of(sites, "http://a.example.org/") is site_of(sites, "https://b.example.org:8443/1.jpg")
    assert site_of(sites, "http://a.example.org/") is not site_of(sites, "http://a.example.com/")
    assert site_of(sites, "http://127.0.0.1:81/") is not site_of(sites, "http://127.0.0.1:82/")


def test_a_rate_for_a_name_that_is_no_site_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match=r"www\.flickr\.com is no site; write flickr\.com"):
        Sites(worker_settings(site_rates="www.flickr.com=2").fetch)
    for text in ("flickr.com", "flickr.com=0", "flickr.com=fast", "=2", "flickr.com=1,flickr.com=2"):
        with pytest.raises(SettingsError, match=r"EMBEDDER_SITE_RATES|SITE_RATES"):
            worker_settings(site_rates=text)
    with pytest.raises(SettingsError, match="EMBEDDER_MIN_RATE_PER_SITE"):
        worker_settings(max_rate_per_site=0.01)


def test_a_site_with_a_rate_has_turns_at_that_rate_and_others_at_once() -> None:
    async def run() -> float:
        sites = Sites(worker_settings(site_rates="example.org=20").fetch)
        began = time.monotonic()
        for _ in range(5):
            await site_of(sites, "http://example.org/").turn()
        return time.monotonic() - began

    assert asyncio.run(run()) >= 0.15


def test_a_turn_that_a_refusal_brings_forward_comes_then() -> None:
    async def run() -> float:
        site = site_of(Sites(worker_settings(min_rate_per_site=0.01).fetch), "http://example.org/")
        now = time.monotonic()
        for number in range(7):  # until the worker takes turns, of which one is some seconds away
            site.pace.note_refusal(sent_at=now - 60 + number, now=now - 60 + number, retry_after_seconds=0)
        site.pace.note_sent(now)
        site.pace.note_sent(now)
        assert site.wait_seconds(now) > 1
        turn = asyncio.ensure_future(site.turn())
        await asyncio.sleep(0)
        began = time.monotonic()
        site.note_refusal(sent_at=now, retry_after_seconds=0)
        expected = site.wait_seconds(began)
        await turn
        return time.monotonic() - began - expected

    assert asyncio.run(run()) < 0.5


def test_the_first_answer_of_any_site_brings_the_turns_of_all_new_sites_forward() -> None:
    async def run() -> None:
        sites = Sites(worker_settings().fetch)
        heard, silent = (site_of(sites, f"http://{name}.example/") for name in ("heard", "silent"))
        for site in (heard, silent):
            await site.turn()
            site.note_begin(time.monotonic())
        later = asyncio.create_task(silent.turn())
        await asyncio.sleep(0.05)
        assert not later.done()
        heard.note_end()
        await asyncio.wait_for(later, UNHEARD_SECONDS / 3)

    asyncio.run(run())


def test_some_broken_images_are_not_taken_for_a_busy_site() -> None:
    site = site_of(Sites(worker_settings().fetch), "http://a.example.org/")
    for _ in range(100):
        assert not site.is_often_busy()
        for _ in range(19):
            site.note_answer(sent_at=0)


def test_a_site_is_busy_when_every_third_answer_says_so() -> None:
    site = site_of(Sites(worker_settings().fetch), "http://a.example.org/")
    said = []
    for _ in range(5):
        said.append(site.is_often_busy())
        for _ in range(2):
            site.note_answer(sent_at=0)
    assert said == [False, False, True, True, True]


def test_any_number_of_rows_of_slow_sites_is_passed_over_and_the_rows_of_others_follow() -> None:
    async def run() -> None:
        sites = Sites(worker_settings(site_rates="example.org=0.01").fetch)
        slow = site_of(sites, "http://example.org/")
        rows = [Row(number, "slow") for number in range(5000)] + [Row(5000, "fast")]
        ahead = RowsAhead(
            rows,
            place_of=lambda row: Place(row.url, slow if row.url == "slow" else None),
            slots=Slots(total=4, per_host=4),
            sites=sites,
            most_waiting=8,
            most_under_way=8,
        )
        found = [await ahead.next() for _ in range(3)]
        assert [row.position for row in found if row] == [0, 1, 5000]
        assert slow.left == 5000

    asyncio.run(asyncio.wait_for(run(), 10))


def test_sites_of_which_nothing_has_to_be_remembered_are_forgotten() -> None:
    sites = Sites(worker_settings(site_rates="example.org=1").fetch)
    slow = site_of(sites, "http://example.org/")
    for number in range(25_000):
        site_of(sites, f"http://127.0.0.1:{number + 1}/")
    assert site_of(sites, "http://example.org/") is slow
    assert len(sites._by_server) < 25_000
