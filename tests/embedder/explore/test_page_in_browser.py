"""The page in a real browser. Each test also fails when the page asks another origin for anything, or logs an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.embedder.explore.pages import (
    BROKEN,
    BROKEN_ROW,
    DAMAGED_ROW,
    HTML_ID,
    HTML_ROW,
    REVERSED_ROW,
    ROWS,
    SCRIPT_ROW,
    SCRIPT_URL,
    picture_of,
    served_page,
    url_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.embedder.explore.pages import ExploredRun, ServedPage

pytest.importorskip("playwright", reason="the page is tested with Playwright")
from playwright.sync_api import expect

PAGE_ROWS = 48
PICTURE = picture_of(200) + b" row 42"


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Give a function that opens an address, and check afterwards what the page did."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    context.set_default_timeout(8_000)
    origins: set[str] = set()
    errors: list[str] = []

    def start(served: ServedPage, view: str = "") -> Page:
        page = context.new_page()
        page.on("request", lambda request: origins.add(re.sub(r"^(blob:)?(\w+://[^/]*).*", r"\2", request.url)))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(f"{message.text} {message.location}"))
        page.goto(served.address + view)
        page.wait_for_selector("html[data-state=ready]")
        origins.discard(f"http://127.0.0.1:{served.port}")
        return page

    yield start
    pages = context.pages
    assert [page.title() for page in pages] == ["embedder explore"] * len(pages)
    context.close()
    assert {each for each in origins if not each.startswith("http://127.0.0.1:")} == set()
    # The browser itself logs every answer with this status, by which the server refuses what is asked for.
    assert [each for each in errors if "status of 422" not in each] == []


def cards(page: Page) -> Any:  # noqa: ANN401 - a Locator
    return page.locator("#grid .card")


def shown_rows(page: Page) -> list[int]:
    return [int(each) for each in page.locator("#grid button").evaluate_all("all => all.map(b => b.dataset.row)")]


def nearest_rows(served: ServedPage, row: int, count: int) -> list[int]:
    order = np.argsort(-(served.vectors @ served.vectors[row]), kind="stable")
    return [int(each) for each in order if each != row][:count]


def test_the_first_page_shows_the_rows_and_says_what_the_result_is(
    served: ServedPage, opened: Callable[..., Page]
) -> None:
    page = opened(served)
    expect(cards(page)).to_have_count(PAGE_ROWS)
    assert shown_rows(page) == list(range(PAGE_ROWS))
    about = page.locator("#about").inner_text()
    assert f"{ROWS} pictures · 60 failed · untrained · 512 dimensions · searched exactly" in about
    expect(page.locator("#warning")).to_contain_text("answers to a text mean nothing")
    image = page.locator("#grid img").first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") > 0


def test_a_text_finds_the_nearest_rows_with_their_scores(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served)
    page.fill("#text", "57")
    page.press("#text", "Enter")
    expect(page.locator("#title")).to_have_text("“57”")
    expect(page.locator("#grid .score").first).to_have_text("1.000")
    assert shown_rows(page)[:10] == [57, *nearest_rows(served, 57, 9)]
    scores = [float(each) for each in page.locator("#grid .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.go_back()
    expect(page.locator("#title")).to_have_text("All pictures")


def test_a_refused_text_is_a_sentence(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served)
    page.fill("#text", "<b>dogs</b>")
    page.click("#go")
    expect(page.locator("#problem")).to_have_text("nobody knows the words <b>dogs</b>; write the number of a row")
    expect(cards(page)).to_have_count(0)


def test_a_click_finds_what_is_near_a_picture(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served)
    page.click("#grid button[data-row='21']")
    expect(page.locator("#title")).to_have_text("Near row 21")
    expect(page.locator("#query-picture img")).to_be_visible()
    expect(page.locator("#query-link a")).to_have_attribute("href", url_of(21))
    expect(page.locator("#grid .score").first).to_be_visible()
    assert shown_rows(page) == nearest_rows(served, 21, PAGE_ROWS)


def test_pages_are_turned(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served)
    expect(page.locator("#previous")).to_be_disabled()
    page.click("#next")
    expect(page.locator("#range")).to_have_text(f"49 to 96 of {ROWS}")
    page.click("#next")
    expect(page.locator("#range")).to_have_text(f"97 to {ROWS} of {ROWS}")
    assert shown_rows(page) == list(range(96, ROWS))
    expect(page.locator("#next")).to_be_disabled()
    page.goto(served.address + "#/near/21/48")
    expect(page.locator("#range")).to_have_text(f"49 to 96 of {ROWS - 1}")
    assert shown_rows(page) == nearest_rows(served, 21, 96)[48:]


def test_a_chosen_file_is_a_query(served: ServedPage, opened: Callable[..., Page], tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(PICTURE)
    page = opened(served)
    page.set_input_files("#file", tmp_path / "mine.jpg")
    expect(page.locator("#title")).to_have_text("Near your picture")
    expect(page.locator("#query-picture img")).to_be_visible()
    expect(page.locator("#grid .score").first).to_have_text("1.000")
    assert shown_rows(page)[0] == 42


def drop(page: Page, data: bytes, *, event: str = "drop") -> None:
    page.evaluate(
        """([bytes, kind]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "<b>.jpg", { type: "image/jpeg" }));
            const given = kind === "paste" ? { clipboardData: transfer } : { dataTransfer: transfer };
            const Kind = kind === "paste" ? ClipboardEvent : DragEvent;
            document.body.dispatchEvent(new Kind(kind, { bubbles: true, cancelable: true, ...given }));
        }""",
        [list(data), event],
    )


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_that_is_dropped_or_pasted_is_a_query(
    served: ServedPage, opened: Callable[..., Page], event: str
) -> None:
    page = opened(served)
    if event == "drop":
        drop(page, PICTURE, event="dragover")
        expect(page.locator("#drop")).to_be_visible()
    drop(page, PICTURE, event=event)
    expect(page.locator("#title")).to_have_text("Near your picture")
    expect(page.locator("#drop")).to_be_hidden()
    expect(page.locator("#grid .score").first).to_have_text("1.000")
    assert shown_rows(page)[0] == 42


def test_a_dropped_file_that_is_no_picture_is_a_sentence(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served)
    drop(page, b"no picture")
    expect(page.locator("#problem")).to_contain_text("nobody knows the words")


def test_a_broken_picture_shows_its_reason(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served)
    for row, reason in ((BROKEN_ROW, BROKEN), (DAMAGED_ROW, "it cannot be shown")):
        missing = page.locator(f"#grid button[data-row='{row}'] .missing")
        missing.scroll_into_view_if_needed()
        expect(missing).to_have_text(f"no picture: {reason}")
        expect(page.locator(f"#grid button[data-row='{row}'] img")).to_have_count(0)


def test_what_a_list_contains_is_text(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served)
    card = {row: page.locator(f"#grid .card:has(button[data-row='{row}'])") for row in range(PAGE_ROWS)}
    expect(card[SCRIPT_ROW].locator(".place").first).to_have_text(SCRIPT_URL)
    assert card[SCRIPT_ROW].locator("a").count() == 0
    expect(card[HTML_ROW].locator(".id")).to_have_text(HTML_ID)
    assert card[HTML_ROW].locator("a").get_attribute("rel") == "noreferrer noopener"
    assert HTML_ID in (card[HTML_ROW].locator("button").get_attribute("aria-label") or "")
    reversed_url = card[REVERSED_ROW].locator("a")
    expect(reversed_url).to_have_text("https://photos.example/\\u202egpj.exe\\u0007/\\u200bhidden.jpg")
    assert (reversed_url.get_attribute("href") or "").startswith("https://photos.example/%E2%80%AEgpj.exe")
    for row in (SCRIPT_ROW, HTML_ROW, REVERSED_ROW):
        page.goto(f"{served.address}#/near/{row}")
        expect(page.locator("#title")).to_have_text(f"Near row {row}")
        expect(page.locator("#query-about")).not_to_have_text("")
        assert page.locator("main img[onerror], main script, main b").count() == 0
    page.goto(f"{served.address}#/text/%3Cimg%20src=x%20onerror=alert(1)%3E")
    expect(page.locator("#title")).to_have_text("“<img src=x onerror=alert(1)>”")


def test_failures_are_shown_by_reason_and_by_pages(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served, "#/failures")
    expect(page.locator("#failures-about")).to_contain_text(f"60 of {ROWS + 60} images are not in the result")
    expect(page.locator("#failed-rows tr")).to_have_count(50)
    page.click("#more")
    expect(page.locator("#failed-rows tr")).to_have_count(60)
    expect(page.locator("#more")).to_be_hidden()
    expect(page.locator("#reasons button").first).to_contain_text("40not_found")
    page.click("#reasons button:has-text('timeout')")
    expect(page.locator("#failed-rows tr")).to_have_count(20)
    assert page.url.endswith("#/failures/timeout")
    cells = page.locator("#failed-rows tr").first.locator("td")
    expect(cells.nth(2)).to_have_text(HTML_ID)
    expect(cells.nth(3)).to_have_text(SCRIPT_URL)
    expect(cells.nth(5)).to_have_text("<script>document.title='owned'</script>, \"two\\u000alines\"")
    assert page.locator("#failed-rows a, #failed-rows img, #failed-rows script").count() == 0


def open_map(opened: Callable[..., Page], served: ServedPage) -> Page:
    page = opened(served, "#/map")
    page.wait_for_selector("#canvas[data-state=done]", timeout=30_000)
    return page


def place_of(page: Page, served: ServedPage, row: int) -> tuple[float, float]:
    """Return where a row is on the canvas before any zoom, as the page computes it."""
    answer = page.request.get(f"{served.address}api/map?version=0").json()
    at = answer["rows"].index(row)
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    unit = min(box["width"], box["height"]) / 2.2
    return box["width"] / 2 + answer["x"][at] * unit, box["height"] / 2 + answer["y"][at] * unit


def test_the_map_shows_a_picture_under_the_pointer_and_searches_near_a_click(
    served: ServedPage, opened: Callable[..., Page]
) -> None:
    page = open_map(opened, served)
    expect(page.locator("#map-about")).to_contain_text(f"All {ROWS} pictures")
    left, top = place_of(page, served, 70)
    page.locator("#canvas").hover(position={"x": left, "y": top})
    expect(page.locator("#hover-picture img")).to_be_visible()
    expect(page.locator("#hover-text")).to_have_text(re.compile(r"id-\d+"))
    page.locator("#canvas").click(position={"x": left, "y": top})
    expect(page.locator("#title")).to_have_text(re.compile(r"Near row \d+"))
    group = int(page.locator("#title").inner_text().split()[-1]) // 10
    expect(page.locator("#grid .score").first).to_be_visible()
    assert {row // 10 for row in shown_rows(page)[:9]} == {group}


def test_the_map_zooms_and_moves_and_shows_what_is_in_its_middle(
    served: ServedPage, opened: Callable[..., Page]
) -> None:
    page = open_map(opened, served)
    expect(page.locator("#strip .card")).to_have_count(12)
    before = page.locator("#strip button").evaluate_all("all => all.map(b => b.dataset.row)")
    left, top = place_of(page, served, 70)
    page.locator("#canvas").hover(position={"x": left, "y": top})
    for _ in range(12):
        page.mouse.wheel(0, -120)
    # Zoomed in at row 70, its group alone is left.
    expect(page.locator("#strip .card")).not_to_have_count(12)
    rows = page.locator("#strip button").evaluate_all("all => all.map(b => Number(b.dataset.row))")
    assert 70 in rows
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 500, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 50, steps=4)
    page.mouse.up()
    assert page.url.endswith("#/map"), "a drag is no click"
    page.click("#zoom-reset")
    expect(page.locator("#strip .card")).to_have_count(12)
    assert page.locator("#strip button").evaluate_all("all => all.map(b => b.dataset.row)") == before


def test_everything_is_reached_by_keyboard(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served)
    expect(cards(page)).to_have_count(PAGE_ROWS)

    def focused() -> str:
        found: str = page.evaluate(
            "(e => e.id || e.dataset.row || e.dataset.view || e.className || e.tagName)(document.activeElement)"
        )
        return found

    def press(*keys: str) -> str:
        for key in keys:
            page.keyboard.press(key)
        return focused()

    order = [press("Tab") for _ in range(9)]
    assert order == ["skip", "A", "pictures", "map", "failures", "text", "go", "choose", "0"]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    columns = page.evaluate("getComputedStyle(document.querySelector('#grid')).gridTemplateColumns.split(' ').length")
    assert press("ArrowRight", "ArrowRight", "ArrowLeft") == "1"
    assert press("ArrowDown") == str(1 + columns)
    assert press("ArrowUp", "ArrowUp") == "1"
    assert press("End") == str(PAGE_ROWS - 1)
    assert press("Home", "ArrowRight") == "1"
    assert press("Tab") == "place", "the link of the picture"
    assert press("Tab") == "next", "the previous page is none"
    press("Shift+Tab", "Shift+Tab", "Enter")
    expect(page.locator("#title")).to_have_text("Near row 1")
    assert focused() == "title"
    expect(page.locator("#live")).to_have_text(f"1 to 48 of {ROWS - 1}: Near row 1")
    page.locator("nav a[data-view=map]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#canvas[data-state=done]", timeout=30_000)
    assert press("Tab") == "canvas"
    press(*"+++++++", "ArrowLeft", "ArrowLeft")
    expect(page.locator("#strip .card")).not_to_have_count(12)
    page.keyboard.press("0")
    expect(page.locator("#strip .card")).to_have_count(12)
    assert press("Tab", "Tab", "Tab") == "zoom-reset"
    press("Tab", "Enter")
    expect(page.locator("#title")).to_have_text(re.compile(r"Near row \d+"))


def test_without_its_model_the_page_still_finds_what_is_near(
    explored_run: ExploredRun, opened: Callable[..., Page]
) -> None:
    with served_page(explored_run, model_error="the model is <i>another</i> one") as served:
        page = opened(served)
        expect(page.locator("#search-note")).to_contain_text(
            "No search by text or picture: the model is <i>another</i> one. A click on a picture still finds"
        )
        for name in ("text", "go", "choose"):
            expect(page.locator(f"#{name}")).to_be_disabled()
        page.click("#grid button[data-row='30']")
        expect(page.locator("#grid .score").first).to_be_visible()
        page.close()


def test_the_address_for_a_browser_works_once(served: ServedPage, opened: Callable[..., Page]) -> None:
    page = opened(served)
    page.goto(served.address_once)
    assert page.url == served.address
    second = page.request.get(served.address_once)
    assert second.status == 404


def test_a_page_of_another_site_cannot_ask(served: ServedPage, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.route("https://evil.example/", lambda route: route.fulfill(body="<p>evil", content_type="text/html"))
    page.goto("https://evil.example/")
    outcomes = page.evaluate(
        """async (address) => {
            const fetched = await fetch(address + "api/about").then((answer) => answer.status, () => "refused");
            const picture = await new Promise((resolve) => {
                const image = new Image();
                image.onload = () => resolve("shown");
                image.onerror = () => resolve("refused");
                image.src = address + "picture?row=0";
            });
            return [fetched, picture];
        }""",
        served.address,
    )
    context.close()
    assert outcomes == ["refused", "refused"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colours_and_the_width_of_the_screen(
    served: ServedPage,
    opened: Callable[..., Page],
    scheme: Any,  # noqa: ANN401 - a literal of Playwright
) -> None:
    page = opened(served)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 380, "height": 700})
    expect(cards(page)).to_have_count(PAGE_ROWS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 384) == (scheme == "dark")
