"""The forward pass of a vision tower: from squares of pixels to vectors, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPVisionModelWithProjection

    from worker.encode.model import ModelSource


class ForwardPass:
    """A vision tower with the normalisation of its pixels. The tower must be on `device` and compute in `dtype`."""

    def __init__(
        self, tower: CLIPVisionModelWithProjection, source: ModelSource, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.image_size = source.image_size
        self.dimensions = int(tower.config.projection_dim)
        self._tower = tower
        # (x / 255 - mean) / std as one multiplication and one addition of a whole row of pixels. torch is twice as fast
        # with a whole row as with three channels.
        std = torch.tensor(source.std, device=device)  # (3,)
        self._scale = (1 / (255 * std)).repeat(source.image_size)  # (3 size,)
        self._shift = (-torch.tensor(source.mean, device=device) / std).repeat(source.image_size)  # (3 size,)

    def normalise(self, pixels: Tensor, *, out: Tensor) -> None:
        """Write `pixels` to `out` as the tower expects them, both (rows, size, size, 3).

        `pixels` hold 0 to 255 in any type. `out` is in any floating point type. The computation is in float32.
        """
        torch.addcmul(self._shift, pixels.flatten(2), self._scale, out=out.flatten(2))

    def vectors(self, inputs: Tensor) -> Tensor:
        """Return the vectors of normalised pixels, (rows, size, size, 3) in the compute dtype.

        The vectors are float32 (rows, dimensions), each of L2 norm 1, or not finite if the tower's output is not finite
        or has length 0.
        """
        channels_first = inputs.permute(0, 3, 1, 2)  # (rows, 3, size, size)
        features = self._tower(pixel_values=channels_first).image_embeds.float()  # (rows, dimensions)
        vectors: Tensor = functional.normalize(features, dim=-1, eps=0)  # (rows, dimensions)
        return vectors
