"""Which model a run uses and where its files are; nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.errors import ConfigError, ModelError, SourceUnavailable
from common.process.resources import exhausted

UNTRAINED = "untrained"
UNTRAINED_SEED = 0

WEIGHTS_PATTERNS = ("model*.safetensors*", "pytorch_model*.bin*")
"""By preference; a repository may hold both."""

CONFIG_FILES = ("config.json", "preprocessor_config.json")

ORIGIN_FILE = "origin.json"
"""In a folder that `python -m worker.encode.weights` wrote: which model of the hub it was."""

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the channels, 0 to 1: those CLIP was trained with, where a model does not bring its own."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model that was found: `folder` holds its configuration and weights, None for untrained ones."""

    name: str
    revision: str
    folder: Path | None
    weights: str
    """What identifies configuration and weights: a hash of their files."""
    image_size: int = 224
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD


def find_model(name: str, *, revision: str) -> ModelSource:
    """Return the model `name`: `untrained`, a folder, or an id of the hub, whose files are fetched unless cached.

    Raises ModelError when there is no such model or it is no CLIP model, SourceUnavailable when the hub does not
    answer or is busy.
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
    return _model_in(fetch_model(name, revision=revision), name=name, revision=revision)


def fetch_model(name: str, *, revision: str) -> Path:
    """Return the folder with the hub's files of a model, from the cache or fetched. Raises as `find_model` does."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - not needed for folders, and slow to import
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"the model {name!r} at revision {revision!r}"
    try:
        for pattern in WEIGHTS_PATTERNS:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*CONFIG_FILES, pattern]))
            if any(folder.glob(pattern)):
                return folder
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"the hub has no {what.removeprefix('the ')}, or does not show it to this user") from error
    except HFValidationError as error:
        raise ModelError(f"EMBEDDER_MODEL is {name!r}, which is neither a folder nor an id of the hub") from error
    except LocalEntryNotFoundError as error:
        if _may_pass(error):
            raise SourceUnavailable(f"{what} cannot be fetched now: {_first_line(error)}") from error
        raise ModelError(
            f"{what} is not in the cache, and the hub cannot be asked for it ({_first_line(error)}); bake "
            "or mount the weights and set EMBEDDER_MODEL to their folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise SourceUnavailable(f"{what} cannot be fetched now: {_first_line(error)}") from error
    raise ModelError(f"{what} has no weights that can be read ({', '.join(WEIGHTS_PATTERNS)})")


def _may_pass(error: BaseException | None) -> bool:
    """Tell whether the hub failed to answer in a way that may pass: not when it is switched off or has no address."""
    from huggingface_hub.errors import OfflineModeIsEnabled  # noqa: PLC0415

    while error is not None:
        if isinstance(error, OfflineModeIsEnabled) or "offline" in str(error).lower():
            return False
        if isinstance(error, socket.gaierror):
            return error.errno != socket.EAI_NONAME
        error = error.__cause__ or error.__context__
    return True


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _model_in(folder: Path, *, name: str, revision: str) -> ModelSource:
    config = _read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in {"clip", "clip_vision_model"}:
        raise ModelError(f"{name} is a model of type {kind!r}, not a CLIP model with a vision tower")
    vision = config.get("vision_config", {}) if kind == "clip" else config
    image_size = vision.get("image_size", 224) if isinstance(vision, dict) else None
    if not isinstance(image_size, int) or image_size < 1:
        raise ModelError(f"{name}: config.json says no image size of the vision tower in pixels")
    processor = _read_json(folder / "preprocessor_config.json", optional=True)
    origin = _read_json(folder / ORIGIN_FILE, optional=True)
    return ModelSource(
        name=str(origin.get("model", name)),
        revision=str(origin.get("revision", revision)),
        folder=folder,
        weights=_hash_files(folder, name=name),
        image_size=image_size,
        mean=_channels(processor.get("image_mean", OPENAI_MEAN), name=name),
        std=_channels(processor.get("image_std", OPENAI_STD), name=name),
    )


def _channels(values: Any, *, name: str) -> tuple[float, float, float]:  # noqa: ANN401 - from JSON
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name}: preprocessor_config.json has no mean and deviation of three channels") from error
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


def _hash_files(folder: Path, *, name: str) -> str:
    weights = next((found for pattern in WEIGHTS_PATTERNS if (found := sorted(folder.glob(pattern)))), None)
    if not weights:
        raise ModelError(f"{name}: {folder} holds no weights ({', '.join(WEIGHTS_PATTERNS)})")
    digest = hashlib.sha256()
    for path in [*(folder / name for name in CONFIG_FILES if (folder / name).exists()), *weights]:
        try:
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        except OSError as error:
            raise exhausted(error) or ConfigError(f"{path} cannot be read: {error.strerror}") from error
    return f"sha256:{digest.hexdigest()}"
