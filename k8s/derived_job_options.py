"""The options that `embedder rerun` and `embedder topup` share: how their pods differ from those of the worker Job."""

from __future__ import annotations

from typing import Annotated

import typer

from common.errors import SettingsError
from common.indexes import parse_indexes

CpuOption = Annotated[
    str,
    typer.Option(
        "--cpu",
        metavar="2",
        help="CPU cores that each pod requests.\n\n[dim]default: those of the worker Job[/dim]",
        show_default=False,
    ),
]
MemoryOption = Annotated[
    str,
    typer.Option(
        "--memory",
        metavar="16Gi",
        help="Memory of each pod, for example more for chunks that ran out of it.\n\n"
        "[dim]default: that of the worker Job[/dim]",
        show_default=False,
    ),
]
ParallelismOption = Annotated[
    int | None,
    typer.Option(
        "--parallelism",
        metavar="P",
        min=1,
        help="Number of pods that run at the same time.\n\n[dim]default: that of the worker Job[/dim]",
        show_default=False,
    ),
]
SetEnvOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set-env",
        metavar="NAME=VALUE",
        help="Environment variable of the workers. May be given several times.",
        show_default=False,
    ),
]


def parse_chunks(chunks: str) -> list[int]:
    """Return the chunks that --chunks names, an empty list for an empty text. Raises SettingsError."""
    try:
        wanted = parse_indexes(chunks)
    except ValueError as error:
        raise SettingsError(f"--chunks {chunks}: {error}") from error
    if chunks and not wanted:
        raise SettingsError(f"--chunks {chunks!r} names no chunk; write it as in 3,7-9")
    return wanted
