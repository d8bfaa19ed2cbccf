"""Computes QuickGELU, CLIP's activation, in one kernel of a GPU instead of three."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from common.logs import log

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPVisionModelWithProjection

SHARPNESS = 1.702
"""The factor in QuickGELU(x) = x sigmoid(1.702 x), as in OpenAI's CLIP."""


def fuse_quick_gelu(tower: CLIPVisionModelWithProjection) -> CLIPVisionModelWithProjection:
    """Compute QuickGELU in each layer as silu, if that gives the same output; return the tower, which must be float32.

    1.702 QuickGELU(x) = silu(1.702 x), where silu(x) = x sigmoid(x) is one kernel. So the linear layer before the
    activation is multiplied by 1.702, and the weight of the one behind it is divided by 1.702. Layers with another
    activation stay as they are.
    """
    try:
        for layer in tower.vision_model.encoder.layers:
            layer.mlp = _fused(layer.mlp)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        log.info("whole_activation", error=str(error))
    return tower


@torch.no_grad()
def _fused(mlp: Any) -> Any:  # noqa: ANN401 - a module of transformers, which does not declare its parts
    """Return a module that computes the same as `mlp`, or `mlp` itself if its activation is not QuickGELU."""
    steps = torch.linspace(-10, 10, 401)  # GELU differs from QuickGELU by up to 0.02 here
    if not torch.allclose(mlp.activation_fn(steps), steps * torch.sigmoid(SHARPNESS * steps), rtol=1e-5, atol=1e-6):
        return mlp
    fused = _SiluMlp(mlp.fc1, mlp.fc2)
    tokens = torch.sin(torch.arange(3.0 * mlp.fc1.in_features)).view(3, -1)  # (3 tokens, width)
    whole = mlp(tokens)  # (3, width)
    is_same = torch.allclose(fused(tokens), whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
    return fused if is_same else mlp


class _SiluMlp(nn.Module):
    """Two linear layers with QuickGELU between them, computed as silu."""

    def __init__(self, fc1: nn.Linear, fc2: nn.Linear) -> None:
        super().__init__()
        self.fc1, self.fc2 = deepcopy(fc1), deepcopy(fc2)
        for factor in (self.fc1.weight, self.fc1.bias):
            factor.mul_(SHARPNESS)
        self.fc2.weight.div_(SHARPNESS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Take and return (…, width)."""
        result: Tensor = self.fc2(functional.silu(self.fc1(tokens), inplace=True))
        return result
