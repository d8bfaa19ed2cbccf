"""From a text to a vector: the text tower of the model whose vision tower made the vectors of a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import transformers
from torch.nn import functional

from common.errors import ModelError
from common.process.resources import exhausted
from worker.encode.float32 import compute_float32_exactly
from worker.encode.model import ORIGIN_FILE, TEXT_FOLDER, UNTRAINED_SEED
from worker.encode.tokenizer import ByteTokenizer, ModelTokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import CLIPTextModelWithProjection

    from worker.encode.model import ModelSource
    from worker.encode.tokenizer import Tokenizer

MOST_TOKENS = 77
"""Number of tokens that CLIP reads, the first and the last one included."""


class TextVector(NamedTuple):
    vector: NDArray[np.float32]
    """(dimensions,), of L2 norm 1."""
    is_cut: bool
    """Whether the text was longer than what the model reads, and its end was left out."""


class TextTower:
    """A text tower with its tokenizer, which computes in float32 on the CPU."""

    def __init__(self, tower: CLIPTextModelWithProjection, tokenizer: Tokenizer) -> None:
        self._tower, self._tokenizer = tower, tokenizer
        self.most_tokens = min(MOST_TOKENS, int(tower.config.max_position_embeddings))

    @torch.inference_mode()
    def vector(self, text: str) -> TextVector:
        """Return the text's vector. CLIP was trained with texts in lower case, so the text is put into it.

        Raises ModelError where the tower gives no finite vector.
        """
        tokens = self._tokenizer.tokens(text.lower(), most=self.most_tokens)
        features = self._tower(input_ids=torch.tensor([tokens.ids])).text_embeds  # (1, dimensions)
        vector: NDArray[np.float32] = functional.normalize(features.float(), dim=-1, eps=0)[0].numpy()
        if not np.isfinite(vector).all():
            raise ModelError("the text tower gives no finite vector; its weights may be damaged")
        return TextVector(vector, tokens.is_cut)

    def save(self, folder: Path) -> None:
        """Write weights and configuration of the tower to a folder, without those of the tokenizer."""
        self._tower.save_pretrained(folder)


def load_text_tower(source: ModelSource) -> TextTower:
    """Return the text tower of the model. Raises ModelError if the model has none, or if its files do not fit."""
    compute_float32_exactly()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = transformers.CLIPTextModelWithProjection
    if source.folder is None:
        torch.manual_seed(UNTRAINED_SEED)
        return TextTower(kind(transformers.CLIPTextConfig(projection_dim=source.dimensions)).eval(), ByteTokenizer())
    folder = _text_folder(source, source.folder)
    try:
        tower, info = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True, output_loading_info=True)
    except Exception as error:  # as in worker.encode.vision_tower
        raise exhausted(error) or ModelError(f"{source.name} cannot be loaded from {folder}: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{source.name} lacks {len(missing)} weights of a text tower; the first is {missing[0]}")
    return TextTower(tower.eval(), ModelTokenizer(folder, name=source.name))


def _text_folder(source: ModelSource, folder: Path) -> Path:
    """Return the folder with the text tower: that of the whole model, or the one within a vision tower's folder."""
    if _model_type(folder) == "clip":
        return folder
    text = folder / TEXT_FOLDER
    if _model_type(text) in {"clip", "clip_text_model"} and _origin(text) == _origin(folder):
        return text
    raise ModelError(
        f"{folder} holds the vision tower of {source.name} alone, so it can search for images and not for texts; name "
        "the whole model with --model"
    )


def _model_type(folder: Path) -> str:
    return str(_json(folder / "config.json").get("model_type", ""))


def _origin(folder: Path) -> object:
    return _json(folder / ORIGIN_FILE)


def _json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
