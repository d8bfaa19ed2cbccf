"""The options of `embedder run`, and what the help of commands on this machine shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from common.format.reasons import MAY_PASS
from common.settings import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typer.models import OptionInfo

_WORK, _MODEL, _IMAGES, _FAULTS, _MORE = "The work", "The model", "The images", "Faults and logs", "More"


def examples_epilog(examples: Iterable[str]) -> str:
    """Return the text after the help of a command, which shows `examples` of its use."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]{example}[/cyan]" for example in examples)])


def _setting(flag: str, field: str, *, metavar: str, panel: str, text: str, default: str = "") -> OptionInfo:
    """Return an option for a setting. Its value is a text, which the program that reads the setting checks."""
    about = [f"default: {default}"] if default else []
    shown = " · ".join([*about, f"{ENV_PREFIX}{field}".upper()])
    option: OptionInfo = typer.Option(
        flag, metavar=metavar, help=f"{text}\n\n[dim]{shown}[/dim]", show_default=False, rich_help_panel=panel
    )
    return option


ManifestUri = Annotated[
    str | None,
    typer.Argument(
        metavar="MANIFEST",
        help="What to embed: a folder of pictures; a list of images in CSV, TSV, Parquet, JSONL, JSON, or TXT with one "
        "URL a line; or files that hold the images. A path or a URL; in quotes, a pattern such as 'part-*.parquet'."
        "\n\n[dim]EMBEDDER_MANIFEST_URI[/dim]",
        show_default=False,
    ),
]
RunUri = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="The place of the run and its result: a folder, or s3://bucket/prefix.\n\n[dim]EMBEDDER_RUN_URI[/dim]",
        show_default=False,
    ),
]
ChunkCount = Annotated[
    str | None,
    _setting(
        "--chunks",
        "chunk_count",
        metavar="N",
        panel=_WORK,
        text="Divide the list into N chunks; 10,000 images a chunk is a good size.",
        default="1",
    ),
]
Parallelism = Annotated[
    str | None,
    _setting(
        "--parallelism",
        "parallelism",
        metavar="P",
        panel=_WORK,
        text="Run P workers at a time. One worker alone uses all cores, or the GPU.",
        default="1",
    ),
]
ChunkIndexes = Annotated[
    str | None,
    _setting(
        "--only",
        "chunk_indexes",
        metavar="3,7-9",
        panel=_WORK,
        text="Compute only these chunks; the first chunk is 0.",
        default="all",
    ),
]
TopUp = Annotated[
    bool,
    typer.Option(
        "--top-up",
        metavar=" ",
        help="Fetch again only the images of a run that failed for a reason that may pass, and take all others as they "
        "are. The number of chunks is that of the run.\n\n[dim]EMBEDDER_TOP_UP=true[/dim]",
        rich_help_panel=_WORK,
    ),
]
TopUpReasons = Annotated[
    str | None,
    _setting(
        "--top-up-reasons",
        "top_up_reasons",
        metavar="LIST",
        panel=_WORK,
        text=f"Fetch again the images with these reasons, with commas. Without it: {', '.join(sorted(MAY_PASS))}.",
    ),
]
IdsUri = Annotated[
    str | None,
    _setting(
        "--ids",
        "ids_uri",
        metavar="URI",
        panel=_WORK,
        text="A JSON array of ids, for a list that is a JSON array of URLs.",
    ),
]
NoMerge = Annotated[
    bool,
    typer.Option(
        "--no-merge",
        metavar=" ",
        help="Do not merge the chunks.\n\n[dim]EMBEDDER_MERGE=false[/dim]",
        rich_help_panel=_WORK,
    ),
]
KeepChunks = Annotated[
    bool,
    typer.Option(
        "--keep-chunks",
        metavar=" ",
        help="Keep the chunk files after the merge.\n\n[dim]EMBEDDER_KEEP_CHUNKS=true[/dim]",
        rich_help_panel=_WORK,
    ),
]
Model = Annotated[
    str | None,
    _setting(
        "--model",
        "model",
        metavar="MODEL",
        panel=_MODEL,
        text="The CLIP model: a name on the model hub, a folder, or `untrained` (random weights, for a trial).",
        default="openai/clip-vit-base-patch32",
    ),
]
ModelRevision = Annotated[
    str | None,
    _setting(
        "--revision",
        "model_revision",
        metavar="COMMIT",
        panel=_MODEL,
        text="The commit of the model on the hub.",
        default="3d74acf9… of the default model",
    ),
]
Dtype = Annotated[
    str | None,
    _setting(
        "--dtype",
        "dtype",
        metavar="TYPE",
        panel=_MODEL,
        text="The numbers that the model computes with: auto, float32, bfloat16 or float16.",
        default="auto",
    ),
]
Device = Annotated[
    str | None,
    _setting("--device", "device", metavar="DEVICE", panel=_MODEL, text="auto, cpu or cuda.", default="auto"),
]
BatchSize = Annotated[
    str | None,
    _setting(
        "--batch-size",
        "batch_size",
        metavar="N",
        panel=_MODEL,
        text="Images in one forward pass; 0 chooses a number that suits the device.",
        default="0",
    ),
]
Sources = Annotated[
    str | None,
    _setting(
        "--sources",
        "sources",
        metavar="LIST",
        panel=_IMAGES,
        text="Where to look for an image, from first to last, with commas: mirror, thumbnail, original, url.",
        default="auto",
    ),
]
MaxFailureRatio = Annotated[
    str | None,
    _setting(
        "--max-failure-ratio",
        "max_failure_ratio",
        metavar="SHARE",
        panel=_IMAGES,
        text="The share of a chunk's images that may fail; a chunk with a larger share fails.",
        default="0.2",
    ),
]
Retries = Annotated[
    str | None,
    _setting(
        "--retries",
        "retries",
        metavar="K",
        panel=_FAULTS,
        text="Attempts after the first one, for each chunk and for the merge.",
        default="3",
    ),
]
LogDir = Annotated[
    str | None,
    _setting(
        "--log-dir",
        "log_dir",
        metavar="FOLDER",
        panel=_FAULTS,
        text="Keep the full log of every attempt in this folder. Without it, only the logs of a run that fails are "
        "kept, in a temporary folder.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of docs/settings.md, as in --set fetch_concurrency=128. You can repeat this option.",
        show_default=False,
        rich_help_panel=_MORE,
    ),
]
