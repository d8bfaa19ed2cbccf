"""How many images a second the device encodes, measured on the spot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from worker.encode.encoder import Encoder

CPU_ROWS = 32
"""Largest number of images in a measured batch on a CPU, which takes most of a second for them."""

TIMED_SECONDS = 1.0
"""Time in seconds after which no further batch is begun."""


class BatchRate(NamedTuple):
    images_per_second: float
    rows: int
    """Number of images in each measured batch."""


def measure_batch_rate(encoder: Encoder, batch_size: int) -> BatchRate:
    """Return how many images of a batch `encoder` encodes a second, after one batch that is not timed.

    Raises what `Encoder.start` raises.
    """
    rows = batch_size if encoder.device.type == "cuda" else min(batch_size, CPU_ROWS)
    size = encoder.image_size
    squares = torch.full((rows, size, size, 3), 127, dtype=torch.uint8)  # (rows, size, size, 3)
    encoder.start([squares])()
    began = time.monotonic()
    waits, seconds = [encoder.start([squares])], 0.0
    batches = 0
    while waits:
        if seconds < TIMED_SECONDS:
            # One batch ahead, as the pipeline does, so that the device never waits.
            waits.append(encoder.start([squares]))
        waits.pop(0)()
        batches += 1
        seconds = time.monotonic() - began
    return BatchRate(batches * rows / max(seconds, 1e-9), rows)
