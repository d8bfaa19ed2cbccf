"""What a GPU costs and how it fails: memory, waiting, precision, kernels."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import structlog
import torch
from torch.nn import functional

from common.errors import ResourceExhausted
from tests.gpu.encoders import CUDA, ROWS, new_encoder
from tests.worker.encode.vectors import cosines, noise
from worker.encode.cuda_driver import read_cuda_facts
from worker.encode.encoder import choose_batch_size, choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.encode.encoder import Encoder

GIBIBYTE = 1 << 30


@pytest.fixture
def limit_memory() -> Iterator[Callable[[int], None]]:
    """A function that allows this process so many more bytes of the GPU's memory than it holds now."""

    def limit(more: int) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(CUDA).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(CUDA) + more) / total, CUDA)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    gc.collect()
    torch.cuda.empty_cache()


def test_the_driver_describes_the_gpu_as_torch_does() -> None:
    facts = read_cuda_facts()
    assert choose_device("auto") == choose_device("cuda") == CUDA
    assert [gpu.name for gpu in facts.gpus] == [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]
    assert facts.gpus[0].capability == torch.cuda.get_device_capability(CUDA)
    assert facts.architectures
    assert choose_batch_size(CUDA, threads=1) >= 1


def test_a_batch_is_captured_and_later_batches_take_no_more_memory(
    photos: torch.Tensor, limit_memory: Callable[[int], None]
) -> None:
    with structlog.testing.capture_logs() as logs:
        encoder = new_encoder(torch.float16)
        encoder.warm_up(ROWS)
    assert not logs
    expected = encoder.start([photos])()
    limit_memory(0)
    before = torch.cuda.memory_reserved(CUDA)
    for _ in range(5):
        assert np.array_equal(encoder.start([photos])(), expected)
    assert torch.cuda.memory_reserved(CUDA) == before


def test_batches_are_halved_until_they_fit_in_the_memory(
    photos: torch.Tensor, encoder_of: Callable[[torch.dtype], Encoder], limit_memory: Callable[[int], None]
) -> None:
    expected = encoder_of(torch.float16).start([photos])()
    encoder = new_encoder(torch.float16)
    limit_memory(GIBIBYTE)
    with structlog.testing.capture_logs() as logs:
        encoder.warm_up(8192)
    halved = [(line["rows"], line["now_at_most"]) for line in logs if line["event"] == "out_of_device_memory"]
    assert halved[0] == (8192, 4096)
    assert [line["event"] for line in logs] == ["out_of_device_memory"] * len(halved)
    rows = halved[-1][1]
    # Other rows may choose other kernels, so the bits need not be the same.
    assert cosines(encoder.start([photos])(), expected).min() >= 0.99999
    squares = noise(rows + 5, 224)
    vectors = encoder.start([squares])()
    assert len(vectors) == rows + 5
    assert np.array_equal(vectors[rows:], encoder.start([squares[rows:]])())


def test_memory_that_does_not_hold_one_image_is_exhausted(limit_memory: Callable[[int], None]) -> None:
    encoder = new_encoder(torch.float32)
    limit_memory(0)
    left = []
    for size in (8 << 20, 1 << 20, 1 << 16, 512):  # what torch has reserved and not given away
        with suppress(torch.OutOfMemoryError):
            while True:
                left.append(torch.empty(size, dtype=torch.uint8, device=CUDA))
    with pytest.raises(ResourceExhausted, match="one image"):
        encoder.warm_up(4)


def test_no_core_is_busy_while_the_gpu_computes() -> None:
    encoder = new_encoder(torch.float32)
    encoder.warm_up(256)
    squares = torch.zeros(256, 224, 224, 3, dtype=torch.uint8).pin_memory()
    waiting = [encoder.start([squares]) for _ in range(20)]
    began, cpu = time.monotonic(), time.process_time()
    for wait in waiting:
        wait()
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    assert seconds > 0.1  # else there was nothing to wait for
    assert cpu_seconds < 0.3 * seconds


def test_float32_is_not_tf32(encoder_of: Callable[[torch.dtype], Encoder]) -> None:
    encoder_of(torch.float32)  # loading a model sets the precision
    generator = torch.Generator().manual_seed(1)
    one, other = (torch.randn(1024, 1024, generator=generator).to(CUDA) for _ in range(2))
    images = torch.randn(8, 3, 224, 224, generator=generator).to(CUDA)
    filters = torch.randn(64, 3, 32, 32, generator=generator).to(CUDA)

    def errors() -> list[float]:
        """Return the largest errors of a product of matrices and of a convolution, relative to the largest value."""
        pairs = [
            (one @ other, one.double() @ other.double()),
            (
                functional.conv2d(images, filters, stride=32),
                functional.conv2d(images.double(), filters.double(), stride=32),
            ),
        ]
        return [float((found.double() - exact).abs().max() / exact.abs().max()) for found, exact in pairs]

    assert max(errors()) < 1e-5
    if torch.cuda.get_device_capability(CUDA) >= (8, 0):
        backends = torch.backends
        backends.cuda.matmul.fp32_precision = "tf32"
        try:
            assert max(errors()) > 1e-5  # else the bound would show nothing
        finally:
            backends.cuda.matmul.fp32_precision = "ieee"


def test_quick_gelu_is_one_kernel_in_each_layer(encoder_of: Callable[[torch.dtype], Encoder]) -> None:
    encoder = encoder_of(torch.float16)
    squares = noise(ROWS, 224)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        encoder.start([squares])()
    kernels = [event.name for event in profile.events() if event.device_type.name == "CUDA"]
    if not kernels:
        pytest.skip("the profiler sees no kernels on this machine")
    assert sum("silu" in name for name in kernels) == 12
    assert not any("sigmoid" in name or "gelu" in name.lower() for name in kernels)


FAIL = """
import numpy as np, torch
from tests.gpu.encoders import CUDA, new_encoder
encoder = new_encoder(torch.float16)
encoder.warm_up(4)
squares = [torch.zeros(4, 224, 224, 3, dtype=torch.uint8)]
assert np.isfinite(encoder.start(squares)()).all()
torch.arange(3, device=CUDA)[torch.tensor([10**6], device=CUDA)]  # an assertion of the kernel fails, later on
try:
    for _ in range(3):
        encoder.start(squares)()
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


def test_a_gpu_that_fails_is_named() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FAIL],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout.startswith(f"DeviceUnavailable cuda:0 ({torch.cuda.get_device_name(CUDA)}) failed: "), run.stderr
