from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from worker.encode.batch_rate import CPU_ROWS, measure_batch_rate
from worker.encode.encoder import Encoder
from worker.encode.model import find_model
from worker.encode.vision_tower import load_vision_tower

if TYPE_CHECKING:
    from pathlib import Path


def test_the_rate_of_a_cpu_is_measured_with_batches_of_a_bounded_size(tiny_clip: Path) -> None:
    source = find_model(str(tiny_clip), revision="")
    encoder = Encoder(load_vision_tower(source), source, device=torch.device("cpu"), dtype=torch.float32)
    assert measure_batch_rate(encoder, 8).rows == 8
    measured = measure_batch_rate(encoder, 10 * CPU_ROWS)
    assert measured.rows == CPU_ROWS
    assert measured.images_per_second > 10
