"""python -m worker.encode.weights FOLDER: fetches a model's vision tower from the hub into a folder, once.

For images that carry their weights and for machines that run without the hub: EMBEDDER_MODEL then names the folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from common.errors import SourceUnavailable
from common.logs import log
from common.process import program
from worker.encode.model import ORIGIN_FILE, ModelSource, find_model
from worker.settings import EncodeSettings

PROBE_SECONDS = 10
"""For the hub to say that it is there; without the question its client retries for half a minute."""


def main() -> program.Finished:
    fields = EncodeSettings.model_fields
    parser = argparse.ArgumentParser(prog="python -m worker.encode.weights", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the weights are to be; left as it is if they are there")
    parser.add_argument("--model", default=fields["model"].default, help="id of the hub (default: %(default)s)")
    parser.add_argument("--revision", default=fields["model_revision"].default, help="commit (default: %(default)s)")
    wanted = parser.parse_args()
    if _is_there(wanted.folder, model=wanted.model, revision=wanted.revision):
        return program.Finished(f"{wanted.folder} holds {wanted.model} at {wanted.revision} already")
    if not Path(wanted.model).is_dir():
        _probe(wanted.model, revision=wanted.revision)
    source = find_model(wanted.model, revision=wanted.revision)
    log.info("fetched", model=source.name, revision=source.revision, weights=source.weights)
    save_vision_tower(source, wanted.folder)
    return program.Finished(f"{wanted.folder} holds the vision tower of {source.name} at {source.revision}")


def save_vision_tower(source: ModelSource, folder: Path) -> None:
    """Write the vision tower with its projection, its configuration and its origin to `folder`, whole or not at all."""
    from worker.encode.encoder import load_vision_tower  # noqa: PLC0415 - imports torch

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        part = Path(temporary) / "model"
        load_vision_tower(source).save_pretrained(part)
        if source.folder is not None and (processor := source.folder / "preprocessor_config.json").exists():
            shutil.copy(processor, part)
        origin = {"model": source.name, "revision": source.revision, "weights": source.weights}
        (part / ORIGIN_FILE).write_text(json.dumps(origin, indent=2) + "\n", "utf-8")
        for file in part.iterdir():
            file.chmod(0o644)  # pods read them as another user
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)


def _is_there(folder: Path, *, model: str, revision: str) -> bool:
    try:
        origin = json.loads((folder / ORIGIN_FILE).read_text("utf-8"))
        return (origin["model"], origin["revision"]) == (model, revision)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _probe(model: str, *, revision: str) -> None:
    from huggingface_hub import HfApi  # noqa: PLC0415 - slow to import

    try:
        HfApi().model_info(model, revision=revision, timeout=PROBE_SECONDS)
    except Exception as error:  # every way of not answering is one here
        message = next(iter(str(error).splitlines()), type(error).__name__)
        raise SourceUnavailable(f"the hub does not give {model} at {revision}: {message[:200]}") from error


if __name__ == "__main__":
    program.run(main)
