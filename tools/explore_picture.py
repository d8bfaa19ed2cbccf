"""Take docs/assets/explore.webp, the picture of the page in the README: python -m tools.explore_picture ADDRESS ROW.

ADDRESS is what `embedder explore` has printed; the picture shows what is near ROW, and the map beside it. It takes
chromium and Playwright, so it is run by hand.
"""

from __future__ import annotations

import io
import os
import shutil
import sys

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

from tools.documents import ROOT

TARGET = ROOT / "docs" / "assets" / "explore.webp"
VIEW: ViewportSize = {"width": 980, "height": 760}
GAP = 16


def main(address: str, row: str) -> None:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport=VIEW, color_scheme="light")
        drawn = _shot(page, f"{address}#/map", "#strip li:nth-child(12) img", click="#zoom-in")
        near = _shot(page, f"{address}#/near/{row}", "#grid li:nth-child(10) img")
        browser.close()
    both = Image.new("RGB", (near.width + GAP + drawn.width, near.height), "white")
    both.paste(near, (0, 0))
    both.paste(drawn, (near.width + GAP, 0))
    both.save(TARGET, "WEBP", quality=80, method=6)


def _shot(page: Page, address: str, selector: str, *, click: str = "") -> Image.Image:
    page.goto(address)
    page.wait_for_selector(selector, timeout=60_000)
    if click:
        page.click(click)
    page.wait_for_timeout(4_000)  # the pictures arrive
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:])
