"""The options of `embedder check` that no other command has."""

from __future__ import annotations

from typing import Annotated

import typer

_WHERE = "Where"

ReleaseName = Annotated[
    str,
    typer.Option(
        "--release",
        metavar="NAME",
        help="Take MANIFEST, RUN and all settings from this Helm release, or show what its check Job has found. "
        "With --rendered: the run that is meant, where there are several.",
        show_default=False,
        rich_help_panel=_WHERE,
    ),
]
Rendered = Annotated[
    str,
    typer.Option(
        "--rendered",
        metavar="FILE",
        help="Take them from what helm template prints, before anything is installed; - reads standard input.",
        show_default=False,
        rich_help_panel=_WHERE,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar=" ", help="Print one JSON object instead of a table.")]
