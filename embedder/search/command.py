"""`embedder search`: from its options to the nearest rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import QueryRefused, SettingsError
from embedder.local import options
from embedder.local.programs import Programs, check_worker_libraries

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from embedder.query.program import QueryProgram

EXAMPLES = (
    'embedder search out "two dogs on a beach"',
    "embedder search out --image my-photo.jpg --count 20",
    "embedder search s3://bucket/run --url https://example.org/photo.jpg --json",
)

EPILOG = options.examples_epilog(EXAMPLES)

MAX_COUNT = 10_000
"""Largest number of rows that are asked for."""

PIPE_WIDTH = 4000
"""Width of the table in columns where the output is not a terminal: each row stays on its line."""

UNTRAINED = (
    "the model of this run is `untrained`: its weights are random numbers, so the answers mean NOTHING; they only show "
    "that everything works"
)

Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The place of the run: a folder, or s3://bucket/prefix.", show_default=False),
]
Words = Annotated[
    str | None,
    typer.Argument(metavar="TEXT", help="What the pictures should show, in some words.", show_default=False),
]
ImageFile = Annotated[
    Path | None,
    typer.Option("--image", metavar="FILE", help="Search for pictures like this file.", show_default=False),
]
ImageUrl = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Search for pictures like the one at this URL.", show_default=False),
]
Count = Annotated[int, typer.Option("--count", "-k", metavar="N", help="Number of rows.")]
AsJson = Annotated[bool, typer.Option("--json", metavar=" ", help="Print one JSON object.")]
AsCsv = Annotated[bool, typer.Option("--csv", metavar=" ", help="Print CSV.")]
Exact = Annotated[
    bool, typer.Option("--exact", metavar=" ", help="Compare with every vector, also where there is an index.")
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Where to look for the run's model: a folder, or a name on the model hub. Another model is refused.",
        show_default=False,
    ),
]


def search(
    context: typer.Context,
    *,
    run_uri: Run,
    text: Words = None,
    image: ImageFile = None,
    url: ImageUrl = None,
    count: Count = 10,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    exact: Exact = False,
    model: Model = "",
) -> None:
    """Find the pictures of a run that are nearest to a text or to an image.

    Give exactly one of TEXT, --image and --url. The query is computed by the model that made the run's vectors.
    """
    if sum(each is not None for each in (text, image, url)) != 1:
        raise SettingsError("give exactly one of TEXT, --image FILE and --url URL; see embedder search --help")
    if not 1 <= count <= MAX_COUNT:
        raise SettingsError(f"--count is {count}; choose a number from 1 to {MAX_COUNT}")
    if as_json and as_csv:
        raise SettingsError("--json and --csv are both given; choose one of them")
    data = None if image is None else _read_image(image)
    check_worker_libraries("embedder search")
    # Imported here: `embedder --help` needs none of these.
    from rich.console import Console  # noqa: PLC0415

    from embedder.query.open_run import open_run  # noqa: PLC0415
    from embedder.query.program import QueryProgram  # noqa: PLC0415
    from embedder.search import found as shown  # noqa: PLC0415
    from results.nearest import open_nearest  # noqa: PLC0415

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    programs: Programs = context.obj or Programs()
    # The program imports its libraries while the result and its index are opened.
    with QueryProgram(programs, say=lambda message: errors.print(message, style="yellow", markup=False)) as program:
        query = _ask(program, text=text, data=data, url=url)
        _check_asked(query)
        result = open_run(run_uri)
        program.use_model(result.provenance, name=result.store.uri, dimensions=result.dimensions, model=model)
        nearest = open_nearest(result, exact=exact)
        vector = query.result()
        rows = shown.read_rows(result, nearest.nearest(vector, count))
        if not rows:
            errors.print("the result has no rows: no image of this run was embedded", style="yellow")
        is_untrained = program.ready.result().is_untrained
        if is_untrained:
            errors.print(f"WARNING: {UNTRAINED}", style="bold yellow", markup=False)
        if as_json:
            typer.echo(shown.as_json(rows, run=result.store.uri, search=nearest.name, is_untrained=is_untrained))
        elif as_csv:
            typer.echo(shown.as_csv(rows, has_ids=result.has_ids), nl=False)
        else:
            width = None if sys.stdout.isatty() else PIPE_WIDTH
            Console(highlight=False, width=width).print(shown.as_table(rows, has_ids=result.has_ids))


def _read_image(path: Path) -> bytes:
    from embedder.query.program import MAX_IMAGE_BYTES  # noqa: PLC0415 - as above

    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise QueryRefused(f"--image is {path}, which cannot be read: {error.strerror}") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise QueryRefused(f"--image is {path}, which has more than {MAX_IMAGE_BYTES} bytes, the limit")
    return data


def _ask(
    program: QueryProgram, *, text: str | None, data: bytes | None, url: str | None
) -> Future[NDArray[np.float32]]:
    if text is not None:
        return program.text(text)
    if data is not None:
        return program.image(data)
    return program.url(url or "")


def _check_asked(query: Future[NDArray[np.float32]]) -> None:
    """Raise the error of a query that was refused at once, before anything is opened."""
    if query.done():
        query.result()
