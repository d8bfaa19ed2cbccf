"""Encoders on the GPU."""

from __future__ import annotations

import torch

from worker.encode.encoder import Encoder
from worker.encode.model import UNTRAINED, find_model
from worker.encode.vision_tower import load_vision_tower

CUDA = torch.device("cuda", 0)

ROWS = 64
"""Number of rows of every launch, where a test does not need another number."""


def new_encoder(dtype: torch.dtype, device: torch.device = CUDA) -> Encoder:
    """Return an encoder of ViT-B/32 with seeded random weights, not warmed up."""
    source = find_model(UNTRAINED, revision="")
    return Encoder(load_vision_tower(source), source, device=device, dtype=dtype, threads=2)
