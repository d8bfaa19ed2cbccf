"""What the tests on a GPU share. They need PyTorch with CUDA, transformers and Pillow, and no network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

# Imported here, where the warnings of these libraries about their own versions are not errors.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    import transformers  # noqa: F401

from common.errors import DeviceUnavailable
from tests.gpu.encoders import ROWS, new_encoder
from worker.encode.cuda_driver import read_cuda_facts, usable_gpu, why_none

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from worker.encode.encoder import Encoder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A GPU machine has its own versions of the libraries. Their warnings are no faults of this program.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session", autouse=True)
def _needs_a_gpu() -> None:
    facts = read_cuda_facts()
    try:
        reason = "" if usable_gpu(facts) else why_none(facts)
    except DeviceUnavailable as error:
        reason = str(error)
    if reason:
        pytest.skip(f"these tests need a GPU: {reason}")


@pytest.fixture(scope="session")
def photos() -> torch.Tensor:
    """The squares of the example photos, uint8 (photos, 224, 224, 3)."""
    squares = []
    for path in sorted((Path(__file__).parents[2] / "examples" / "photos").iterdir()):
        if path.suffix != ".md":
            with Image.open(path) as image:
                squares.append(np.asarray(ImageOps.fit(image.convert("RGB"), (224, 224), Image.Resampling.BICUBIC)))
    return torch.from_numpy(np.stack(squares))


@pytest.fixture(scope="session")
def on_cpu(photos: torch.Tensor) -> NDArray[np.float32]:
    """The photos' vectors in float32 on the CPU."""
    return new_encoder(torch.float32, torch.device("cpu")).start([photos])()


@pytest.fixture(scope="session")
def encoder_of() -> Callable[[torch.dtype], Encoder]:
    """A function that returns the encoder for a type, ready for batches of ROWS images."""
    made: dict[torch.dtype, Encoder] = {}

    def get(dtype: torch.dtype) -> Encoder:
        if dtype not in made:
            made[dtype] = new_encoder(dtype)
            made[dtype].warm_up(ROWS)
        return made[dtype]

    return get
