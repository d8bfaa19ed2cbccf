"""`embedder report`: the report of a finished run, made again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from common.errors import SettingsError
from common.process.resources import written_file
from common.run.keys import REPORT_KEY
from embedder.local.options import examples_epilog

EXAMPLES = (
    "embedder report out",
    "embedder report s3://bucket/run --output report.html",
    "embedder report out --gpu-hour-price 0.71",
)

EPILOG = examples_epilog(EXAMPLES)


def report(
    *,
    run_uri: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="The place of a finished run: a folder, or s3://bucket/prefix.", show_default=False
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write this file, and leave the run as it is.", show_default=False
        ),
    ] = "",
    gpu_hour_price: Annotated[
        float | None,
        typer.Option(
            "--gpu-hour-price",
            metavar="PRICE",
            min=0,
            help="What an hour of one GPU costs, in any currency.\n\n"
            "[dim]default: the price that the merge was given[/dim]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make the report of a finished run again, and print where it is.

    The report is one HTML file that needs no network: totals, a timeline, failures, provenance, cost and some pictures.
    The pictures are those of the earlier report, because only the chunks had them.
    """
    # These imports bring h5py and numpy, which take as long as everything else that `embedder --help` imports.
    from embedder.query.open_run import open_run  # noqa: PLC0415
    from results.report.renewal import make_report  # noqa: PLC0415

    if gpu_hour_price is not None and not math.isfinite(gpu_hour_price):
        raise SettingsError(f"--gpu-hour-price is {gpu_hour_price}; give an amount, as in 0.71")
    result = open_run(run_uri)
    store, summary = result.store, result.summary
    if gpu_hour_price is not None:
        summary = summary.model_copy(update={"gpu_hour_price": gpu_hour_price})
    html = make_report(store, summary, earlier=store.stat(REPORT_KEY)).encode()
    if output:
        _write(Path(output).expanduser(), html)
        typer.echo(output)
    else:
        store.put_bytes(REPORT_KEY, html)
        typer.echo(store.location(REPORT_KEY))


def _write(path: Path, data: bytes) -> None:
    """Replace the file in one step."""
    part = path.with_name(f".{path.name}.part")
    try:
        with written_file(path):
            part.write_bytes(data)
            part.replace(path)
    except OSError as error:
        raise SettingsError(f"--output is {path}: {error.strerror}; choose another file") from error
