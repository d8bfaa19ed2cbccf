"""Loads a CLIP model's vision tower. Only this module imports transformers, which takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import transformers

from common.errors import ModelError
from common.process.resources import exhausted
from worker.encode.float32 import compute_float32_exactly
from worker.encode.model import UNTRAINED_SEED

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

    from worker.encode.model import ModelSource


def load_vision_tower(source: ModelSource) -> CLIPVisionModelWithProjection:
    """Return the model's vision tower with its projection, in float32. Raises ModelError if its files do not fit.

    From then on, this process computes float32 exactly.
    """
    compute_float32_exactly()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = transformers.CLIPVisionModelWithProjection
    if source.folder is None:
        torch.manual_seed(UNTRAINED_SEED)
        return kind(transformers.CLIPVisionConfig(projection_dim=512)).eval()
    try:
        tower, info = kind.from_pretrained(
            source.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (
        Exception
    ) as error:  # the library raises a dozen types of errors, and nearly all mean that the files are wrong
        if (shortage := exhausted(error)) is not None:
            raise shortage from error
        raise ModelError(f"{source.name} cannot be loaded from {source.folder}: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{source.name} lacks {len(missing)} weights of a vision tower; the first is {missing[0]}")
    return tower.eval()
