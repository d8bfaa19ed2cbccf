"""`embedder explore`: from its options to a page in the browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from common.errors import SettingsError
from embedder.local import options
from embedder.local.programs import LibrariesMissing, Programs, check_worker_libraries

EXAMPLES = (
    "embedder explore out",
    "embedder explore out --images my-photos/",
    "embedder explore s3://bucket/run --no-browser --port 8000",
)

EPILOG = options.examples_epilog(EXAMPLES)

_PANEL = "The page"
_LIBRARIES = ("starlette", "uvicorn")

Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The place of the run: a folder, or s3://bucket/prefix.", show_default=False),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="FOLDER",
        help="Where the paths of a local list start: the folder of the list, or the folder of pictures, tar or Parquet "
        "files that was embedded, or a copy of these tar or Parquet files. Without it, no local file is shown.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Port = Annotated[
    int,
    typer.Option(
        "--port", metavar="N", min=0, max=65_535, help="The port; 0 takes a free one.", rich_help_panel=_PANEL
    ),
]
NoBrowser = Annotated[
    bool,
    typer.Option("--no-browser", metavar=" ", help="Print the address, and open no browser.", rich_help_panel=_PANEL),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        metavar=" ",
        help="Compare with every vector, also where there is an index.",
        rich_help_panel=_PANEL,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Where to look for the run's model: a folder, or a name on the model hub. Another model is refused.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


def explore(
    context: typer.Context,
    *,
    run_uri: Run,
    images: Images = None,
    port: Port = 0,
    no_browser: NoBrowser = False,
    exact: Exact = False,
    model: Model = "",
) -> None:
    """Look at a run in the browser: search it by text or by a picture, see what is near a picture, a map, and failures.

    The page is on this machine and for you alone: it listens on 127.0.0.1, and its address holds a secret.
    """
    check_explore_libraries()
    check_worker_libraries("embedder explore")
    if images is not None and not images.is_dir():
        raise SettingsError(
            f"--images is {images}, which is no folder; give the folder of the list, or of the pictures, tar "
            "or Parquet files"
        )
    # Imported here: `embedder --help` needs none of these.
    from embedder.explore.session import explore_run  # noqa: PLC0415

    explore_run(
        run_uri,
        programs=context.obj or Programs(),
        images=images,
        port=port,
        with_browser=not no_browser,
        exact=exact,
        model=model,
    )


def check_explore_libraries() -> None:
    """Raise LibrariesMissing unless the libraries of the extra `explore` are installed. Imports none of them."""
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise LibrariesMissing(
            f"embedder explore needs libraries that are not installed: {', '.join(missing)}; install the embedder "
            "with its extras `worker` and `explore`: run uv tool install '.[worker,explore]' in the folder of its "
            "source code"
        )
