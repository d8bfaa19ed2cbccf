"""python -m worker.encode.weights FOLDER: fetches a model's vision tower from the hub into a folder, once.

With --text it fetches the text tower too, with which a result is searched.

The folder serves container images that contain the weights, and machines without access to the hub. EMBEDDER_MODEL then
names the folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from common.logs import log
from common.process import program
from worker.encode.hub import probe
from worker.encode.model import (
    NESTED_PROCESSOR_FILE,
    ORIGIN_FILE,
    PROCESSOR_FILE,
    TEXT_FOLDER,
    TOKENIZER_FILES,
    ModelSource,
    find_model,
)
from worker.encode.text_tower import load_text_tower
from worker.encode.vision_tower import load_vision_tower
from worker.settings import EncodeSettings


def main() -> program.Finished:
    fields = EncodeSettings.model_fields
    parser = argparse.ArgumentParser(prog="python -m worker.encode.weights", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to put the weights; not changed if they are there")
    parser.add_argument("--model", default=fields["model"].default, help="id of the hub (default: %(default)s)")
    parser.add_argument("--revision", default=fields["model_revision"].default, help="commit (default: %(default)s)")
    parser.add_argument("--text", action="store_true", help="put the text tower there too, to search for texts")
    wanted = parser.parse_args()
    has_text = (wanted.folder / TEXT_FOLDER / ORIGIN_FILE).exists()
    if (has_text or not wanted.text) and _holds(wanted.folder, model=wanted.model, revision=wanted.revision):
        return program.Finished(f"{wanted.folder} holds {wanted.model} at {wanted.revision} already")
    if not Path(wanted.model).is_dir():
        probe(wanted.model, revision=wanted.revision)
    source = find_model(wanted.model, revision=wanted.revision)
    log.info("fetched", model=source.name, revision=source.revision, weights=source.weights)
    save_vision_tower(source, wanted.folder, with_text=wanted.text)
    revision = f" at {source.revision}" if source.revision else ""
    return program.Finished(f"{wanted.folder} holds the vision tower of {source.name}{revision}")


def save_vision_tower(source: ModelSource, folder: Path, *, with_text: bool = False) -> None:
    """Write the vision tower with its projection, configuration and origin to `folder`, completely or not at all.

    The text tower and its tokenizer lie in a folder within it, so they are no part of the identity of the weights.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        part = Path(temporary) / "model"
        load_vision_tower(source).save_pretrained(part)
        for name in (PROCESSOR_FILE, NESTED_PROCESSOR_FILE):
            if source.folder is not None and (processor := source.folder / name).exists():
                shutil.copy(processor, part)
        origin = {"model": source.name, "revision": source.revision, "weights": source.weights}
        texts = json.dumps(origin, indent=2) + "\n"
        (part / ORIGIN_FILE).write_text(texts, "utf-8")
        if with_text:
            text = part / TEXT_FOLDER
            load_text_tower(source).save(text)
            for name in TOKENIZER_FILES:
                if source.folder is not None and (file := source.folder / name).exists():
                    shutil.copy(file, text)
            (text / ORIGIN_FILE).write_text(texts, "utf-8")
            text.chmod(0o755)
        for file in part.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # pods read the files as another user
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)


def _holds(folder: Path, *, model: str, revision: str) -> bool:
    try:
        origin = json.loads((folder / ORIGIN_FILE).read_text("utf-8"))
        return (origin["model"], origin["revision"]) == (model, revision)
    except (OSError, ValueError, KeyError, TypeError):
        return False


if __name__ == "__main__":
    program.run(main)
