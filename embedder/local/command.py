"""`embedder run`: its options, and from there to the end of the run."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from common.errors import ExitCode, SettingsError, Stopped
from common.logs import configure_logs
from common.process.resources import new_temporary_folder, written_file
from common.settings import ENV_PREFIX, read_settings
from common.store import open_store
from embedder.local import report as run_report
from embedder.local.display import open_display
from embedder.local.local_run import JobFailed, LocalRun, Programs
from embedder.local.progress import Phase, RunProgress
from embedder.local.settings import LocalRunSettings, environment_of

if TYPE_CHECKING:
    from typer.models import OptionInfo

EXAMPLES = (
    "embedder run photos.csv out",
    "embedder run photos.csv out --model untrained",
    "embedder run image_urls.json out --ids image_ids.json --chunks 20",
    "embedder run list.parquet s3://bucket/run --set fetch_concurrency=128",
)

EPILOG = "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]{example}[/cyan]" for example in EXAMPLES)])

_WORK, _MODEL, _IMAGES, _FAULTS, _MORE = "The work", "The model", "The images", "Faults and logs", "More"


def _setting(flag: str, field: str, *, metavar: str, panel: str, text: str, default: str = "") -> OptionInfo:
    """Return an option that sets an EMBEDDER_ variable. Its value is text: the program that reads it checks it."""
    about = [f"default: {default}"] if default else []
    shown = " · ".join([*about, f"{ENV_PREFIX}{field}".upper()])
    option: OptionInfo = typer.Option(
        flag, metavar=metavar, help=f"{text}\n\n[dim]{shown}[/dim]", show_default=False, rich_help_panel=panel
    )
    return option


def run(
    context: typer.Context,
    *,
    manifest_uri: Annotated[
        str | None,
        typer.Argument(
            metavar="MANIFEST",
            help="The list of images: CSV, TSV, Parquet, JSONL, TXT of URLs, or JSON; a path, http(s):// or s3://."
            "\n\n[dim]EMBEDDER_MANIFEST_URI[/dim]",
            show_default=False,
        ),
    ] = None,
    run_uri: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="Where the run lives: a folder, or s3://bucket/prefix.\n\n[dim]EMBEDDER_RUN_URI[/dim]",
            show_default=False,
        ),
    ] = None,
    chunk_count: Annotated[
        str | None,
        _setting(
            "--chunks",
            "chunk_count",
            metavar="N",
            panel=_WORK,
            text="Divide the manifest into N chunks; 10,000 images in each is good.",
            default="1",
        ),
    ] = None,
    parallelism: Annotated[
        str | None,
        _setting(
            "--parallelism",
            "parallelism",
            metavar="P",
            panel=_WORK,
            text="Workers at a time. One alone uses all cores, or the GPU.",
            default="1",
        ),
    ] = None,
    chunk_indexes: Annotated[
        str | None,
        _setting(
            "--only",
            "chunk_indexes",
            metavar="3,7-9",
            panel=_WORK,
            text="Compute only these chunks, counted from 0.",
            default="all",
        ),
    ] = None,
    ids_uri: Annotated[
        str | None,
        _setting(
            "--ids",
            "ids_uri",
            metavar="URI",
            panel=_WORK,
            text="A JSON array of ids, where the manifest is one of URLs.",
        ),
    ] = None,
    no_merge: Annotated[
        bool,
        typer.Option(
            "--no-merge",
            metavar=" ",
            help="Leave the chunks unmerged.\n\n[dim]EMBEDDER_MERGE=false[/dim]",
            rich_help_panel=_WORK,
        ),
    ] = False,
    keep_chunks: Annotated[
        bool,
        typer.Option(
            "--keep-chunks",
            metavar=" ",
            help="Keep the chunk files after the merge.\n\n[dim]EMBEDDER_KEEP_CHUNKS=true[/dim]",
            rich_help_panel=_WORK,
        ),
    ] = False,
    model: Annotated[
        str | None,
        _setting(
            "--model",
            "model",
            metavar="MODEL",
            panel=_MODEL,
            text="A CLIP model: hub id, folder, or untrained (random weights, to try things out).",
            default="openai/clip-vit-base-patch32",
        ),
    ] = None,
    model_revision: Annotated[
        str | None,
        _setting(
            "--revision",
            "model_revision",
            metavar="COMMIT",
            panel=_MODEL,
            text="The hub's commit of the model.",
            default="3d74acf9… of the default model",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        _setting(
            "--dtype",
            "dtype",
            metavar="TYPE",
            panel=_MODEL,
            text="auto, float32, bfloat16 or float16.",
            default="auto",
        ),
    ] = None,
    device: Annotated[
        str | None,
        _setting("--device", "device", metavar="DEVICE", panel=_MODEL, text="auto, cpu or cuda.", default="auto"),
    ] = None,
    batch_size: Annotated[
        str | None,
        _setting(
            "--batch-size",
            "batch_size",
            metavar="N",
            panel=_MODEL,
            text="Images in one forward pass; 0 suits the device.",
            default="0",
        ),
    ] = None,
    sources: Annotated[
        str | None,
        _setting(
            "--sources",
            "sources",
            metavar="LIST",
            panel=_IMAGES,
            text="Where to look, in order: mirror, thumbnail, original, url.",
            default="auto",
        ),
    ] = None,
    max_failure_ratio: Annotated[
        str | None,
        _setting(
            "--max-failure-ratio",
            "max_failure_ratio",
            metavar="SHARE",
            panel=_IMAGES,
            text="Share of a chunk's images that may fail; above it the chunk fails.",
            default="0.2",
        ),
    ] = None,
    retries: Annotated[
        str | None,
        _setting(
            "--retries",
            "retries",
            metavar="K",
            panel=_FAULTS,
            text="Attempts after the first, for each chunk and for the merge.",
            default="3",
        ),
    ] = None,
    log_dir: Annotated[
        str | None,
        _setting(
            "--log-dir",
            "log_dir",
            metavar="FOLDER",
            panel=_FAULTS,
            text="Keep the full log of every attempt here; else in a temporary folder, after failures only.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting of the README's table, as in --set fetch_concurrency=128; may be repeated.",
            show_default=False,
            rich_help_panel=_MORE,
        ),
    ] = None,
) -> None:
    """Embed a list of images on this machine, from the list to Images_Embedded.h5.

    Plays the cluster: a worker for each chunk, then the merge; faults that may pass are retried.

    Stop it with Ctrl-C whenever you like: the same command goes on from what is finished.

    Every option wins over the environment variable that is named beside it.
    """
    options = {
        "manifest_uri": manifest_uri,
        "run_uri": run_uri,
        "chunk_count": chunk_count,
        "chunk_indexes": chunk_indexes,
        "parallelism": parallelism,
        "ids_uri": ids_uri,
        "merge": "false" if no_merge else None,
        "keep_chunks": "true" if keep_chunks else None,
        "model": model,
        "model_revision": model_revision,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "sources": sources,
        "max_failure_ratio": max_failure_ratio,
        "retries": retries,
        "log_dir": log_dir,
    }
    os.environ.update(environment_of(options, assignments or []))
    for name, argument in (("EMBEDDER_MANIFEST_URI", "MANIFEST"), ("EMBEDDER_RUN_URI", "RUN")):
        if not os.environ.get(name):
            raise SettingsError(f"no {argument} is given and {name} is not set; see embedder run --help")
    raise typer.Exit(run_here(read_settings(LocalRunSettings), context.obj))


def run_here(settings: LocalRunSettings, programs: Programs) -> int:
    """Run the Jobs with the environment of this process, show how they fare, and return the exit code.

    Raises Stopped, and what `LocalRun.run` and `report_result` raise; the run can be gone on with after each.
    """
    configure_logs(settings.log_level)
    store = open_store(settings.run_uri)
    progress = RunProgress(settings.indexes)
    display = open_display(progress, sys.stderr)
    said, result = Console(stderr=True, highlight=False, soft_wrap=True), Console(highlight=False, soft_wrap=True)
    untrained = settings.model == "untrained"
    if untrained:
        display.say("warning", "untrained", run_report.UNTRAINED, chunk=None)
    # The chunk count has a default here alone.
    environment = {f"{ENV_PREFIX}PROGRESS_SECONDS": display.worker_progress_seconds}
    environment |= os.environ | {f"{ENV_PREFIX}CHUNK_COUNT": str(settings.chunk_count)}
    log_dir = _make_log_dir(settings)
    run = LocalRun(
        settings,
        store=store,
        environment=environment,
        programs=programs,
        log_dir=log_dir,
        progress=progress,
        display=display,
    )
    keep_logs = bool(settings.log_dir)
    try:
        outcome = run.run()
        keep_logs |= outcome.exit_code != ExitCode.OK
    except JobFailed as failure:
        keep_logs = True
        run_report.report_log(said, failure.log_path)
        raise
    except Stopped as stop:
        raise Stopped(f"{stop}; {_how_far(progress)}", exit_code=stop.exit_code) from None
    finally:
        if not keep_logs:
            shutil.rmtree(log_dir, ignore_errors=True)
    if outcome.exit_code != ExitCode.OK:
        run_report.report_failures(said, outcome, ["embedder", *sys.argv[1:]])
    elif outcome.merge is None:
        run_report.report_chunks(result, store)
    else:
        run_report.report_result(result, store, untrained=untrained)
    return outcome.exit_code


def _make_log_dir(settings: LocalRunSettings) -> Path:
    # Not in the run: its objects are fixed, and it may be in a bucket.
    if not settings.log_dir:
        return new_temporary_folder("embedder-logs-")
    folder = Path(settings.log_dir).expanduser()
    try:
        with written_file(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"EMBEDDER_LOG_DIR is {folder}: {error.strerror}; choose another folder") from error
    return folder


def _how_far(progress: RunProgress) -> str:
    done = progress.chunks(Phase.DONE)
    if not done:  # or not yet known to be: what an earlier run has left is counted once a worker has compared
        return "the same command goes on from what is in the store"
    return f"{done:,} of {progress.chunk_count:,} chunks are in the store, and the same command goes on from there"
