"""The console script `embedder`. Each of its commands is a function in a module of its own."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from common.errors import EmbedderError, ExitCode, Stopped
from common.format.provenance import program_version
from common.logs import configure_logs, log, redact_urls
from common.process.ignored_errors import log_ignored_errors
from common.process.resources import exhausted
from common.process.stop import install_stop_handlers
from embedder import index, listing, report
from embedder.check import command as check_command
from embedder.explore import command as explore_command
from embedder.export import command as export_command
from embedder.local import command as run_command
from embedder.local.programs import Programs
from embedder.search import command as search_command
from k8s import logs
from k8s.api.options import IN_CLUSTER
from k8s.rerun import command as rerun
from k8s.status import command as status
from k8s.topup import command as topup

HERE = "On this machine"

_STOPS = {ExitCode.STOPPED, ExitCode.INTERRUPTED}

app = typer.Typer(
    name="embedder",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", rich_help_panel=HERE, epilog=run_command.EPILOG)(run_command.run)
app.command("check", rich_help_panel=HERE, epilog=check_command.EPILOG)(check_command.check)
app.command("list", rich_help_panel=HERE, epilog=listing.EPILOG)(listing.write_list)
app.command("index", rich_help_panel=HERE, epilog=index.EPILOG)(index.make_index)
app.command("search", rich_help_panel=HERE, epilog=search_command.EPILOG)(search_command.search)
app.command("explore", rich_help_panel=HERE, epilog=explore_command.EPILOG)(explore_command.explore)
app.command("report", rich_help_panel=HERE, epilog=report.EPILOG)(report.report)
app.command("export", rich_help_panel=HERE, epilog=export_command.EPILOG)(export_command.export)
app.command("status", rich_help_panel=IN_CLUSTER, epilog=status.EPILOG)(status.status)
app.command("logs", rich_help_panel=IN_CLUSTER, epilog=logs.EPILOG)(logs.logs)
app.command("rerun", rich_help_panel=IN_CLUSTER, epilog=rerun.EPILOG)(rerun.rerun)
app.command("topup", rich_help_panel=IN_CLUSTER, epilog=topup.EPILOG)(topup.topup)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(program_version())
        raise typer.Exit


@app.callback()
def embedder(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn millions of images into CLIP embeddings: from a list of images to one Images_Embedded.h5."""


def main(programs: Programs | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code. An expected error is one sentence, not a traceback.

    `programs` are the programs that `embedder run` starts, by default the worker and the merger of this installation.
    """
    configure_logs()
    log_ignored_errors()
    install_stop_handlers()
    try:
        app(obj=programs or Programs())
    except (EmbedderError, Stopped) as end:
        _end(str(end), end.exit_code)
    except Exception as error:
        lacking = exhausted(error)
        if lacking is None and not isinstance(error, OSError):
            raise
        _end(str(lacking or error), ExitCode.TEMPORARY_FAILURE)
    raise AssertionError("unreachable: the app ends by SystemExit")


def _end(message: str, exit_code: ExitCode) -> NoReturn:
    message = redact_urls(message)
    if sys.stderr.isatty():
        word = Text("" if exit_code in _STOPS else "error: ", style="bold red")
        Console(stderr=True, soft_wrap=True).print(word.append(message, "default not bold"))
    else:
        log.error("stopped" if exit_code in _STOPS else "failed", exit_code=int(exit_code), message=message)
    sys.exit(exit_code)
