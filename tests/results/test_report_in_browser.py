"""A report in Debian's Chromium, opened as a file."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from results.report.failure_digest import FailureCounter
from results.report.page import render_report
from tests.results.reports import chunk_times, made_up_failures, made_up_pictures, made_up_summary
from tests.results.test_report import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    page: Page
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def opened(browser: Browser, folder: Path, html: str, **options: str) -> Opened:
    """Open the report, and note what it asks for and what it complains about."""
    path = folder / "report.html"
    path.write_text(html, "utf-8")
    page = browser.new_page(viewport={"width": 1100, "height": 900}, **options)  # type: ignore[arg-type]
    found = Opened(page)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))
    page.on("dialog", lambda dialog: found.messages.append(dialog.message))
    page.goto(path.as_uri())
    return found


def outside(requests: list[str]) -> list[str]:
    return [each for each in requests if not each.startswith(("file:", "data:"))]


def test_a_report_opens_offline_with_the_totals_of_the_summary(browser: Browser, tmp_path: Path) -> None:
    summary = made_up_summary(chunk_times(900, workers=60, topped_up=(3, 9)), 900, gpu_hour_price=0.71)
    html = render_report(summary, made_up_failures(33_300, chunk_count=900), made_up_pictures(900))
    report = opened(browser, tmp_path, html)
    assert outside(report.requests) == []
    assert report.messages == []
    for name in ("rows_embedded", "rows_failed", "result_bytes", "cost_per_million"):
        assert report.page.locator(f"#{name} data").first.get_attribute("value") == str(getattr(summary, name))
    assert report.page.locator("#rows_embedded data").first.inner_text() == f"{summary.rows_embedded:,}"
    loaded = "each => [...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert report.page.evaluate(loaded)
    assert report.page.locator("#time svg").count() == 3
    for width in (1100, 390):  # nothing is wider than the page
        report.page.set_viewport_size({"width": width, "height": 800})
        assert report.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    report.page.close()


def test_a_hostile_list_does_nothing_in_a_report(browser: Browser, tmp_path: Path) -> None:
    counter = FailureCounter()
    for number, url in enumerate(HOSTILE):
        counter.add(("0", str(number), "", url, "not_found", url))
    (picture,) = made_up_pictures(1)
    summary = made_up_summary([], 1, failures_by_reason={"not_found": len(HOSTILE)})
    report = opened(
        browser,
        tmp_path,
        render_report(summary, counter.digest(), [picture._replace(url=url) for url in HOSTILE]),
    )
    assert outside(report.requests) == []
    assert report.messages == []
    assert report.page.locator("script, iframe").count() == 0
    assert report.page.locator("img").count() == len(HOSTILE)
    assert "<script>alert(1)</script>" in report.page.locator("#failures").inner_text()
    report.page.close()


def test_a_report_is_printed_in_light_colours_on_a_few_pages(browser: Browser, tmp_path: Path) -> None:
    summary = made_up_summary(chunk_times(900, workers=60), 900)
    html = render_report(summary, made_up_failures(33_300, chunk_count=900), made_up_pictures(900))
    report = opened(browser, tmp_path, html, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert report.page.evaluate(background) == "rgb(20, 24, 29)"
    report.page.emulate_media(media="print")
    assert report.page.evaluate(background) == "rgb(255, 255, 255)"
    pdf = report.page.pdf(format="A4", print_background=True)
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
    report.page.close()
