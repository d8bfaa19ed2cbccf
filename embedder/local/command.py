"""`embedder run`: from its options to its settings."""

from __future__ import annotations

import os

import typer

from common.errors import SettingsError
from common.settings import read_settings
from embedder.local import options
from embedder.local.settings import LocalRunSettings, environment_of

EXAMPLES = (
    "embedder run photos.csv out",
    "embedder run my-photos/ out",
    "embedder run photos.csv out --model untrained",
    "embedder run image_urls.json out --ids image_ids.json --chunks 20",
    "embedder run list.parquet s3://bucket/run --set fetch_concurrency=128",
    "embedder run photos.csv out --top-up",
)

EPILOG = options.examples_epilog(EXAMPLES)


def run(
    context: typer.Context,
    *,
    manifest_uri: options.ManifestUri = None,
    run_uri: options.RunUri = None,
    chunk_count: options.ChunkCount = None,
    parallelism: options.Parallelism = None,
    chunk_indexes: options.ChunkIndexes = None,
    top_up: options.TopUp = False,
    top_up_reasons: options.TopUpReasons = None,
    ids_uri: options.IdsUri = None,
    no_merge: options.NoMerge = False,
    keep_chunks: options.KeepChunks = False,
    model: options.Model = None,
    model_revision: options.ModelRevision = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    sources: options.Sources = None,
    max_failure_ratio: options.MaxFailureRatio = None,
    retries: options.Retries = None,
    log_dir: options.LogDir = None,
    assignments: options.Assignments = None,
) -> None:
    """Embed a list of images on this machine, from the list to Images_Embedded.h5.

    Runs a worker for each chunk of the list, then merges the chunks. Failures that may pass are tried again.

    You can stop it with Ctrl-C at any time: the same command continues from what is finished.

    With --top-up it fetches again what failed for a reason that may pass, as often as you like.

    An option takes precedence over the environment variable that is named below it.
    """
    given = {
        "manifest_uri": manifest_uri,
        "run_uri": run_uri,
        "chunk_count": chunk_count,
        "chunk_indexes": chunk_indexes,
        "parallelism": parallelism,
        "top_up": "true" if top_up else None,
        "top_up_reasons": top_up_reasons,
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
    os.environ.update(environment_of(given, assignments or []))
    for name, argument in (("EMBEDDER_MANIFEST_URI", "MANIFEST"), ("EMBEDDER_RUN_URI", "RUN")):
        if not os.environ.get(name):
            raise SettingsError(f"no {argument} is given and {name} is not set; see embedder run --help")
    settings = read_settings(LocalRunSettings)
    # This import brings h5py and numpy, which take as long as everything else that `embedder --help` imports.
    from embedder.local.launch import run_here  # noqa: PLC0415

    raise typer.Exit(run_here(settings, context.obj))
