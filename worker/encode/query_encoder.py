"""The vectors of single texts and images, with which a result is searched."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.errors import ModelError
from worker.encode.forward_pass import ForwardPass
from worker.encode.text_tower import load_text_tower
from worker.encode.vision_tower import load_vision_tower

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from worker.encode.model import ModelSource
    from worker.encode.text_tower import TextTower, TextVector


class QueryEncoder:
    """Computes in float32 on the CPU, one query at a time. Each tower is loaded when it is first needed.

    Its methods raise ModelError where the model lacks a tower or its files do not fit.
    """

    def __init__(self, source: ModelSource) -> None:
        self._source = source

    def text_vector(self, text: str) -> TextVector:
        return self._text_tower.vector(text)

    @torch.inference_mode()
    def image_vector(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the vector of a square, uint8 (size, size, 3): (dimensions,) float32 of L2 norm 1."""
        pixels = torch.from_numpy(square)[None].float()  # (1, size, size, 3)
        self._forward.normalise(pixels, out=pixels)
        vector: NDArray[np.float32] = self._forward.vectors(pixels)[0].numpy()
        if not np.isfinite(vector).all():
            raise ModelError("the vision tower gives no finite vector; its weights may be damaged")
        return vector

    @cached_property
    def _text_tower(self) -> TextTower:
        return load_text_tower(self._source)

    @cached_property
    def _forward(self) -> ForwardPass:
        tower = load_vision_tower(self._source)
        return ForwardPass(tower, self._source, device=torch.device("cpu"), dtype=torch.float32)
