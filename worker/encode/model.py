"""Which model a run uses and where its files are. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.errors import ConfigError, ModelError
from common.process.resources import exhausted
from worker.encode.preprocessor import check_preprocessing

UNTRAINED = "untrained"
"""Value of EMBEDDER_MODEL for a ViT-B/32 with random weights."""

UNTRAINED_SEED = 0
"""Seed of those weights."""

WEIGHTS_PATTERNS = ("model*.safetensors*", "pytorch_model*.bin*")
"""Patterns of weights files, the preferred one first. A repository may hold both kinds."""

PROCESSOR_FILE, NESTED_PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
"""Names of the files that may describe a model's image processor. In the second one, which transformers 5 writes, it is
the value of `image_processor`, and then it takes precedence."""

CONFIG_FILES = ("config.json", PROCESSOR_FILE, NESTED_PROCESSOR_FILE)
"""Names of the files that describe a model."""

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Names of the files of the tokenizer of a model's text tower. They decide no vector of an image."""

TEXT_FOLDER = "text"
"""Name of the folder within a vision tower's folder that holds the text tower of the same model."""

ORIGIN_FILE = "origin.json"
"""Name of the file that says which model of the hub a folder holds. `python -m worker.encode.weights` writes it."""

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the channels (0 to 1) in CLIP's training, for models that do not give their own."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model that was found. `folder` holds its configuration and weights; it is None for untrained weights."""

    name: str
    revision: str
    folder: Path | None
    weights: str
    """Identifies configuration and weights: a hash of their files."""
    image_size: int = 224
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    dimensions: int = 512


def find_model(name: str, *, revision: str) -> ModelSource:
    """Return the model `name`: `untrained`, a folder, or an id of the hub.

    The files of a model of the hub are fetched unless they are cached.

    Raises ModelError if there is no such model, or if it is not a CLIP model with OpenAI's preprocessing, and
    SourceUnavailable if the hub does not answer or is busy.
    """
    if name == UNTRAINED:
        libraries = " ".join(f"{library}-{version(library)}" for library in ("torch", "transformers"))
        return ModelSource(
            name=name, revision="", folder=None, weights=f"ViT-B/32 untrained seed-{UNTRAINED_SEED} {libraries}"
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _model_in(folder, name=name, revision="")
    if name.startswith(("/", ".", "~")):
        raise ModelError(f"EMBEDDER_MODEL is {name!r}, and there is no such folder")
    # Imported here: the hub's client takes a quarter of a second, and only models of the hub need it.
    from worker.encode.hub import fetch_model  # noqa: PLC0415

    folder = fetch_model(
        name, revision=revision, configuration=(*CONFIG_FILES, *TOKENIZER_FILES), weights=WEIGHTS_PATTERNS
    )
    return _model_in(folder, name=name, revision=revision)


def _model_in(folder: Path, *, name: str, revision: str) -> ModelSource:
    config = _read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in {"clip", "clip_vision_model"}:
        raise ModelError(f"{name} is a model of type {kind!r}, not a CLIP model with a vision tower")
    vision = config.get("vision_config", {}) if kind == "clip" else config
    image_size = vision.get("image_size", 224) if isinstance(vision, dict) else None
    if not isinstance(image_size, int) or image_size < 1:
        raise ModelError(f"{name}: config.json has no image size of the vision tower in pixels")
    dimensions = config.get("projection_dim", 512)
    if not isinstance(dimensions, int) or dimensions < 1:
        raise ModelError(f"{name}: config.json has no number of dimensions (projection_dim)")
    processor = _read_json(folder / NESTED_PROCESSOR_FILE, optional=True).get("image_processor")
    has_nested_processor = isinstance(processor, dict)
    if not isinstance(processor, dict):
        processor = _read_json(folder / PROCESSOR_FILE, optional=True)
    check_preprocessing(processor, image_size=image_size, name=name)
    origin = _read_json(folder / ORIGIN_FILE, optional=True)
    return ModelSource(
        name=str(origin.get("model", name)),
        revision=str(origin.get("revision", revision)),
        folder=folder,
        weights=_hash_files(folder, name=name, has_nested_processor=has_nested_processor),
        image_size=image_size,
        mean=_channels(processor.get("image_mean", OPENAI_MEAN), name=name),
        std=_channels(processor.get("image_std", OPENAI_STD), name=name),
        dimensions=dimensions,
    )


def _channels(values: Any, *, name: str) -> tuple[float, float, float]:  # noqa: ANN401 - from JSON
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name}: its image processor has no mean and deviation of three channels") from error
    return red, green, blue


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if optional:
            return {}
        raise ModelError(f"{path.parent} holds no model: there is no {path.name}") from error
    except (OSError, ValueError) as error:
        raise exhausted(error) or ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no configuration")
    return values


def _hash_files(folder: Path, *, name: str, has_nested_processor: bool) -> str:
    weights = next((found for pattern in WEIGHTS_PATTERNS if (found := sorted(folder.glob(pattern)))), None)
    if not weights:
        raise ModelError(f"{name}: {folder} holds no weights ({', '.join(WEIGHTS_PATTERNS)})")
    # Most models have a file of this name that says nothing of images.
    described = CONFIG_FILES if has_nested_processor else CONFIG_FILES[:-1]
    digest = hashlib.sha256()
    for path in [*(folder / name for name in described if (folder / name).exists()), *weights]:
        try:
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        except OSError as error:
            raise exhausted(error) or ConfigError(f"{path} cannot be read: {error.strerror}") from error
    return f"sha256:{digest.hexdigest()}"
