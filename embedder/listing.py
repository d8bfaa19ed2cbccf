"""`embedder list`: from its options to the program that writes the list."""

from __future__ import annotations

import os
from typing import Annotated, NoReturn

import typer

from common.errors import SettingsError
from embedder.local import options
from embedder.local.programs import Programs, check_worker_libraries
from embedder.local.settings import SETTABLE, environment_of

EXAMPLES = (
    "embedder list s3://bucket/photos/ s3://bucket/list.parquet",
    "embedder list photos/ list.parquet",
    "embedder list list.csv.gz list.parquet",
)

EPILOG = options.examples_epilog(EXAMPLES)

MOST_FILES = "1000000000"
"""The default of max_listed_files here: one program lists the files, and no pod will."""

Destination = Annotated[
    str,
    typer.Argument(
        metavar="DEST", help="The Parquet file to write: a path, or s3://bucket/list.parquet.", show_default=False
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", metavar=" ", help="Replace DEST if there is such a file.")]


def write_list(
    context: typer.Context,
    *,
    manifest_uri: options.ManifestUri,
    destination: Destination,
    overwrite: Overwrite = False,
    assignments: options.Assignments = None,
) -> NoReturn:
    """Write any list of images as one Parquet file, of which every pod then reads its own rows only.

    It lists a folder, a prefix or a pattern once for all pods. It also takes what pods cannot divide: a compressed
    list, or one large JSON array.
    """
    check_worker_libraries("embedder list")
    given = environment_of({"manifest_uri": manifest_uri}, assignments or [])
    environment = {SETTABLE["max_listed_files"]: MOST_FILES, **os.environ, **given}
    if not environment.get(SETTABLE["manifest_uri"]):
        raise SettingsError("no MANIFEST is given and EMBEDDER_MANIFEST_URI is not set; see embedder list --help")
    programs: Programs = context.obj or Programs()
    command = [*programs.listing, destination, *(["--overwrite"] if overwrite else [])]
    # This process becomes the program, so signals and the exit code need no help.
    os.execve(command[0], command, environment)  # noqa: S606 - no shell is wanted
