"""`embedder export`: from its options to the files, and to how they are opened."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from common.errors import SettingsError
from common.store import open_store
from embedder.local import options
from embedder.local.programs import LibrariesMissing
from results.export.formats import FACTS, Format
from results.export.number_type import NumberType

EXAMPLES = (
    "embedder export out --to parquet",
    "embedder export s3://bucket/run vectors --to npy --dtype float16",
    "embedder export out photos.faiss --to faiss --dtype int8",
    "embedder export out s3://bucket/table --to parquet --rows-per-file 1000000",
)

EPILOG = options.examples_epilog(EXAMPLES)

READERS = {
    Format.PARQUET: "import pyarrow.parquet as parquet; print(parquet.read_table({path}).schema)",
    Format.NPY: 'import numpy; print(numpy.load({path}, mmap_mode="r").shape)',
    Format.FAISS: "import faiss; print(faiss.read_index({path}).ntotal)",
    Format.USEARCH: "from usearch.index import Index; print(Index.restore({path}, view=True))",
}
"""How each form is opened."""

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A finished run: a folder, or s3://bucket/prefix.", show_default=False)
]
Destination = Annotated[
    str,
    typer.Argument(
        metavar="[DEST]",
        help="Where the export goes: a path or an s3:// URL. With the form's own ending (.parquet, .npy, .faiss, "
        ".usearch) it is one file, else a folder. Without it: a name like RUN's, in this folder.",
        show_default=False,
    ),
]
Target = Annotated[
    Format, typer.Option("--to", metavar="FORM", help="parquet, npy, faiss or usearch.", show_default=False)
]
Dtype = Annotated[
    NumberType, typer.Option("--dtype", metavar="TYPE", help="float32, float16 (half the size) or int8 (a quarter).")
]
RowsPerFile = Annotated[
    int,
    typer.Option(
        "--rows-per-file",
        metavar="N",
        min=0,
        help="Divide a Parquet export into files of N rows, in a folder.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", metavar=" ", help="Replace DEST if there is such an export.")]


def export(
    *,
    run: Run,
    destination: Destination = "",
    target: Target,
    dtype: Dtype = NumberType.FLOAT32,
    rows_per_file: RowsPerFile = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write the result of a run in another form: a Parquet table, a NumPy array, a FAISS or a USearch index.

    The rows are streamed, and the export is read back before it appears under its name.
    """
    if rows_per_file and target is not Format.PARQUET:
        raise SettingsError(f"--rows-per-file divides Parquet exports, and --to is {target}; leave it out")
    _check_libraries(target)
    # After the check: these import what may be missing.
    from embedder.export.display import ExportDisplay  # noqa: PLC0415
    from results.export.destination import open_destination  # noqa: PLC0415
    from results.export.export import Order, is_file_name  # noqa: PLC0415
    from results.export.export import export as export_result  # noqa: PLC0415
    from results.result import open_result  # noqa: PLC0415

    store = open_store(run)
    place = destination or _default_destination(run, target, is_folder=bool(rows_per_file))
    is_file = is_file_name(place, target) and not rows_per_file
    order = Order(target=target, number_type=dtype, is_file=is_file, rows_per_file=rows_per_file)
    opened = open_destination(place, is_file=is_file, may_replace=overwrite)
    opened.check_is_free()
    display = ExportDisplay()
    with display.shown():
        exported = export_result(open_result(store), order, opened, display)
    typer.echo(
        f"{opened.name} has {exported.rows:,} rows as {target} {dtype}, {exported.size / 1e6:,.1f} MB; "
        f"{exported.rows_compared:,} rows were read back and compared"
    )
    if exported.scale is not None:
        typer.echo(f"a vector is its int8 numbers times {exported.scale!r}")
    if not opened.name.startswith("s3://"):
        first = next(name for name in exported.files if name.endswith(FACTS[target].endings) and name[0] != "_")
        path = opened.name if is_file or rows_per_file else str(Path(opened.name) / first)
        code = READERS[target].format(path=json.dumps(path, ensure_ascii=False))
        typer.echo(f"\n  python -c {shlex.quote(code)}")


def _check_libraries(target: Format) -> None:
    missing = sorted(
        distribution for module, distribution in FACTS[target].libraries.items() if find_spec(module) is None
    )
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise LibrariesMissing(
            f"embedder export --to {target} needs {' and '.join(missing)}, which {verb} not installed; install the "
            "embedder with its extra `export`: run uv tool install '.[export]' in the folder of its source code"
        )


def _default_destination(run: str, target: Format, *, is_folder: bool) -> str:
    """Return the name of RUN with the form's ending: `out.parquet`, or `out-npy` for a folder."""
    name = run.rstrip("/").rpartition("/")[2] if run.startswith("s3://") else Path(run).absolute().resolve().name
    return f"{name}.parquet" if target is Format.PARQUET and not is_folder else f"{name}-{target}"
