"""`embedder index`: from its options to the index program, and its progress as a bar on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from common.durations import format_duration
from common.errors import SettingsError
from common.logs import parse_line
from common.settings import ENV_PREFIX
from embedder.local import leash, options
from embedder.local.programs import Programs
from results.hnsw import check_hnswlib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from typer.models import OptionInfo

    from common.logs import LogLine

EXAMPLES = (
    "embedder index out",
    "embedder index s3://bucket/run --threads 16",
    "embedder index out --m 32 --ef-construction 400",
)

EPILOG = options.examples_epilog(EXAMPLES)

STOP_SECONDS = 10
"""The time in seconds that the index program has to end after a signal."""

_EVENTS = {"index_progress", "index_step", "finished", "failed", "stopped"}
"""The events that the bar and the last line show; all others are shown as they are."""


def _option(flag: str, field: str, *, metavar: str, text: str, default: str) -> OptionInfo:
    shown = f"default: {default} · {ENV_PREFIX}INDEX_{field}".upper().replace("DEFAULT:", "default:", 1)
    option: OptionInfo = typer.Option(flag, metavar=metavar, help=f"{text}\n\n[dim]{shown}[/dim]", show_default=False)
    return option


M = Annotated[
    str | None, _option("--m", "m", metavar="M", text="Neighbours that each vector is joined to.", default="16")
]
EfConstruction = Annotated[
    str | None,
    _option(
        "--ef-construction",
        "ef_construction",
        metavar="N",
        text="Candidates among which they are chosen.",
        default="200",
    ),
]
Threads = Annotated[
    str | None, _option("--threads", "threads", metavar="N", text="Threads; 0 is one for each core.", default="0")
]
MinRecall = Annotated[
    str | None,
    _option(
        "--min-recall",
        "min_recall",
        metavar="SHARE",
        text="The smallest share of the 10 nearest rows that the index must find.",
        default="0.9",
    ),
]
Folder = Annotated[
    str | None,
    typer.Option(
        "--folder",
        metavar="FOLDER",
        help="Where the index is made; it needs room for all of it. Without it: beside the result, or in TMPDIR for a "
        "run in a bucket.\n\n[dim]EMBEDDER_INDEX_FOLDER[/dim]",
        show_default=False,
    ),
]


def make_index(
    context: typer.Context,
    *,
    run_uri: options.RunUri = None,
    m: M = None,
    ef_construction: EfConstruction = None,
    threads: Threads = None,
    min_recall: MinRecall = None,
    folder: Folder = None,
) -> NoReturn:
    """Build Images_Embedded.bin beside the result: an hnswlib index, with which a search takes milliseconds.

    Its recall is measured against exact search before it is published. A run that has its index is left as it is.
    """
    check_hnswlib("embedder index")
    given = {
        "RUN_URI": run_uri,
        "INDEX_M": m,
        "INDEX_EF_CONSTRUCTION": ef_construction,
        "INDEX_THREADS": threads,
        "INDEX_MIN_RECALL": min_recall,
        "INDEX_FOLDER": folder,
    }
    environment = os.environ | {f"{ENV_PREFIX}{name}": value for name, value in given.items() if value is not None}
    if not environment.get(f"{ENV_PREFIX}RUN_URI"):
        raise SettingsError("no RUN is given and EMBEDDER_RUN_URI is not set; see embedder index --help")
    programs: Programs = context.obj or Programs()
    console = Console(stderr=True, highlight=False)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        # This process becomes the program, so signals and the exit code need no help.
        os.execve(programs.index[0], list(programs.index), environment)  # noqa: S606 - no shell is wanted
    sys.exit(_run_with_bar(programs.index, {f"{ENV_PREFIX}PROGRESS_SECONDS": "0.5", **environment}, console))


def _run_with_bar(command: Sequence[str], environment: Mapping[str, str], console: Console) -> int:
    """Run the program, show how far it is, print its last word, and return its exit code."""
    process = subprocess.Popen(  # noqa: S603 - the program of this installation
        [sys.executable, "-I", "-S", str(Path(leash.__file__)), str(os.getpid()), *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        start_new_session=True,  # the Ctrl-C of a terminal reaches this process alone, which passes it on
    )
    try:
        last = _show(process.stderr or (), console)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    if last is not None:
        message = last.values.get("message", "")
        if code == 0:
            Console(highlight=False, soft_wrap=True).print(Text(message))
        else:
            console.print(Text("error: ", style="bold red").append(message, "default not bold"), soft_wrap=True)
    return code if code >= 0 else 128 - code


def _show(lines: Iterable[str], console: Console) -> LogLine | None:
    """Show the program's lines until it ends, and return its last word."""
    last = None
    bar = Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[vectors]}", markup=False),
        console=console,
        transient=True,
        expand=True,
    )
    with bar:
        task = bar.add_task("reading", total=None, vectors="")
        for text in lines:
            line = parse_line(text)
            if line is None or line.event not in _EVENTS:
                console.print(Text(text.rstrip().partition("Z ")[2] or text.rstrip(), style="dim"), soft_wrap=True)
            elif line.event == "index_step":
                bar.update(task, description=line.values.get("step", ""), total=None)
            elif line.event == "index_progress":
                bar.update(task, completed=line.count("rows"), total=line.count("of"), vectors=_describe(line))
            else:
                last = line
    return last


def _describe(line: LogLine) -> str:
    parts = [f"{line.count('rows') or 0:,} of {line.count('of') or 0:,} vectors"]
    if rate := line.number("rate_per_s"):
        parts.append(f"{rate:,.0f}/s")
    if (eta := line.count("eta_s")) is not None:
        parts.append(f"{format_duration(eta)} left")
    return " · ".join(parts)
