"""One session of `embedder explore`: the result, the query program and the page, from the start to the signal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from common.parallel import begin
from embedder.explore.explorer import Explorer
from embedder.explore.page import Page, open_browser
from embedder.explore.queries import RunQueries
from embedder.query.open_run import open_run
from embedder.query.program import QueryProgram
from results.nearest import open_nearest

if TYPE_CHECKING:
    from pathlib import Path

    from embedder.local.programs import Programs
    from results.result import Result


def explore_run(
    run_uri: str, *, programs: Programs, images: Path | None, port: int, with_browser: bool, exact: bool, model: str
) -> None:
    """Show the page of the run until a signal ends the program.

    Raises Stopped by the signal, SettingsError for a port that is taken, and the errors of `open_run`.
    """
    console = Console(highlight=False, soft_wrap=True)
    result = open_run(run_uri)
    page = Page(port=port)
    with QueryProgram(programs) as program:
        program.use_model(result.provenance, name=result.store.uri, dimensions=result.dimensions, model=model)
        # The page is kept open for many queries, so an index is worth its download.
        nearest = begin("nearest", partial(open_nearest, result, exact=exact, keep=True))
        explorer = Explorer(result, RunQueries(program, images), nearest)
        page.serve(explorer, on_start=partial(_say, console, page, result, with_browser=with_browser))


def _say(console: Console, page: Page, result: Result, *, with_browser: bool) -> None:
    console.print(f"{result.row_count:,} pictures of {result.store.uri}", markup=False)
    console.print(f"\n  {page.address}\n", style="bold", markup=False)
    is_opened = with_browser and open_browser(page.address_once)
    where = "The page opens in your browser." if is_opened else "Open this address in a browser on this machine."
    console.print(f"{where} Ctrl-C ends it.", markup=False)
    console.file.flush()
