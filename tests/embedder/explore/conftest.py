"""One run to explore, and a browser."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from common.store import open_store
from tests.embedder.explore.pages import ServedPage, put_explored_run, served_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.embedder.explore.pages import ExploredRun


@pytest.fixture(scope="session")
def explored_run(tmp_path_factory: pytest.TempPathFactory) -> ExploredRun:
    store = open_store(str(tmp_path_factory.mktemp("explore") / "run"))
    return put_explored_run(store)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium, for the tests of one file. The package of Playwright brings none.

    While Playwright runs, this thread has an event loop, so tests of other files could not start one.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium on this machine")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=program, args=arguments)
        yield started
        started.close()


@pytest.fixture
def served(explored_run: ExploredRun) -> Iterator[ServedPage]:
    with served_page(explored_run) as page:
        yield page
