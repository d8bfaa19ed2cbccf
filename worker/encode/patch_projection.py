"""Computes the projection of an image's patches as one product of matrices instead of a convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from common.logs import log

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPVisionModelWithProjection


def project_patches(tower: CLIPVisionModelWithProjection) -> CLIPVisionModelWithProjection:
    """Replace the convolution over the patches, if a product of matrices gives the same output; return the tower.

    The patches do not overlap, so both compute the same. A GPU's matrix units take channels in multiples of eight, and
    an image has three; a patch has thousands of numbers.
    """
    try:
        embeddings = tower.vision_model.embeddings
        embeddings.patch_embedding = _projection(embeddings.patch_embedding)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        log.info("patches_by_convolution", error=str(error))
    return tower


@torch.no_grad()
def _projection(convolution: Any) -> Any:  # noqa: ANN401 - a module of transformers
    """Return a module that computes the same as `convolution`, or `convolution` itself if it is of another kind."""
    projection = _PatchProjection(convolution)
    size = 2 * projection.patch
    pixels = torch.sin(torch.arange(3.0 * size * size)).view(1, size, size, 3).permute(0, 3, 1, 2)  # (1, 3, size, size)
    whole = convolution(pixels)  # (1, width, 2, 2)
    is_same = torch.allclose(projection(pixels), whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
    return projection if is_same else convolution


class _PatchProjection(nn.Module):
    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.patch = int(convolution.kernel_size[0])
        self.weight = nn.Parameter(convolution.weight.permute(0, 2, 3, 1).flatten(1))  # (width, patch patch 3)

    def forward(self, pixels: Tensor) -> Tensor:
        """Take (rows, 3, size, size) and return (rows, width, grid, grid)."""
        rows, _, size, _ = pixels.shape
        grid = size // self.patch
        inner = pixels.permute(0, 2, 3, 1)[:, : grid * self.patch, : grid * self.patch]  # (rows, size, size, 3)
        lines = inner.reshape(rows, grid, self.patch, grid, self.patch * 3)
        patches = lines.transpose(2, 3).flatten(3)  # (rows, grid, grid, patch patch 3)
        return functional.linear(patches, self.weight).permute(0, 3, 1, 2)
