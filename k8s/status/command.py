"""`embedder status`: how far a run in the cluster is, on one screen."""

from __future__ import annotations

import math
import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from common.errors import ClusterUnavailable, SettingsError
from common.logs import redact_urls
from k8s.api.options import ContextOption, NamespaceOption, ReleaseOption, open_cluster
from k8s.release.release import Release
from k8s.status.screen import as_json, as_screen
from k8s.status.source import read_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from k8s.status.view import Status

EPILOG = "\n\n".join(
    [
        "[bold]Examples[/bold]",
        "[cyan]embedder status --watch[/cyan]",
        "[cyan]embedder status -n photos --output json[/cyan]",
    ]
)

WATCH_SECONDS = 5.0
"""Time between two readings with --watch, in seconds."""

PIPE_WIDTH = 200
"""Width of the screen in columns where the output is not a terminal."""


class Output(StrEnum):
    SCREEN = "screen"
    JSON = "json"


def status(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", metavar=" ", help="Refresh until the merge has ended.")
    ] = False,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="A screen for people, or JSON: one object a line.")
    ] = Output.SCREEN,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            metavar=" ",
            help="Also look into the store, with the credentials of this machine. "
            "It has the chunks of Jobs that no longer exist.",
        ),
    ] = False,
    gpu_hour_price: Annotated[
        float | None,
        typer.Option(
            "--gpu-hour-price",
            metavar="AMOUNT",
            min=0,
            envvar="EMBEDDER_GPU_HOUR_PRICE",
            show_envvar=False,
            help="What an hour of one GPU costs, in any currency.\n\n"
            "[dim]default: EMBEDDER_GPU_HOUR_PRICE, or the chart's gpuHourPrice[/dim]",
        ),
    ] = None,
    release: ReleaseOption = "embedder",
    namespace: NamespaceOption = "",
    context: ContextOption = "",
) -> None:
    """Show how far a run in the cluster is.

    The screen shows chunks, images, rate, GPU hours and their cost, failures and the merge, and suggests the next
    commands.
    """
    if gpu_hour_price is not None and not math.isfinite(gpu_hour_price):
        raise SettingsError(f"--gpu-hour-price is {gpu_hour_price}; give an amount, as in 0.71")
    cluster = open_cluster(namespace=namespace, context=context)

    def read() -> Status:
        return read_status(Release(cluster, release), look_into_store=store, gpu_hour_price=gpu_hour_price)

    if watch:
        _watch(read, output)
        return
    _print(read(), output)


def _print(status: Status, output: Output) -> None:
    if output is Output.JSON:
        typer.echo(as_json(status))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(as_screen(status))


def _watch(read: Callable[[], Status], output: Output) -> None:
    """Show the status until the merge has ended. A cluster that does not answer is asked again."""
    current = read()
    if output is Output.JSON or not sys.stdout.isatty():
        while True:
            _print(current, output)
            sys.stdout.flush()
            if current.has_ended:
                return
            time.sleep(WATCH_SECONDS)
            current = _read_again(read, current)
    with Live(as_screen(current), console=Console(highlight=False), auto_refresh=False, screen=False) as live:
        while not current.has_ended:
            time.sleep(WATCH_SECONDS)
            current = _read_again(read, current)
            live.update(as_screen(current), refresh=True)


def _read_again(read: Callable[[], Status], before: Status) -> Status:
    try:
        return read()
    except ClusterUnavailable as error:
        typer.secho(redact_urls(str(error)), err=True)
        return before
