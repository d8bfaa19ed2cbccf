"""The device for GPUs, with a double of torch.cuda that computes on the CPU. tests/gpu has what needs a GPU."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import structlog
import torch

from common.errors import ResourceExhausted
from tests.worker.encode import cuda_double
from tests.worker.encode.vectors import cosines, noise
from worker.encode.cuda_device import CudaDevice
from worker.encode.encoder import Encoder, gpu_batch_size
from worker.encode.forward_pass import ForwardPass
from worker.encode.model import find_model
from worker.encode.patch_projection import project_patches
from worker.encode.quick_gelu import fuse_quick_gelu
from worker.encode.vision_tower import load_vision_tower

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CPU = torch.device("cpu")


class SmallMemory(torch.nn.Module):
    """A vision tower on a GPU whose memory holds `rows` images. For more images it raises torch's error."""

    def __init__(self, tower: torch.nn.Module, *, rows: int) -> None:
        super().__init__()
        self.tower, self.rows, self.config = tower, rows, tower.config
        self.seen: list[int] = []

    def forward(self, pixel_values: torch.Tensor) -> Any:  # noqa: ANN401 - transformers' output
        self.seen.append(len(pixel_values))
        if len(pixel_values) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.tower(pixel_values=pixel_values)


@pytest.fixture
def memory(tiny_clip: Path) -> SmallMemory:
    """The tiny model in a memory for any number of images."""
    return SmallMemory(load_vision_tower(find_model(str(tiny_clip), revision="")), rows=10**6)


def device_of(folder: Path, tower: torch.nn.Module, *, dtype: torch.dtype = torch.float32) -> CudaDevice:
    forward = ForwardPass(tower.to(dtype), find_model(str(folder), revision=""), device=CPU, dtype=dtype)
    return CudaDevice(forward, cuda=cuda_double)


def vectors_of(device: CudaDevice, *pieces: torch.Tensor) -> NDArray[np.float32]:
    return np.concatenate([part.vectors[: part.rows] for part in device.start(pieces)()])


def cpu_vectors(folder: Path, pixels: torch.Tensor) -> NDArray[np.float32]:
    source = find_model(str(folder), revision="")
    return Encoder(load_vision_tower(source), source, device=CPU, dtype=torch.float32).start([pixels])()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 0.999999), (torch.bfloat16, 0.999)], ids=str)
def test_the_vectors_are_those_of_the_cpu(
    dtype: torch.dtype, bound: float, tiny_clip: Path, memory: SmallMemory
) -> None:
    device = device_of(tiny_clip, memory, dtype=dtype)
    device.warm_up(16)
    pixels = noise(16, 32)
    found = vectors_of(device, *torch.split(pixels, [3, 12, 1]))
    assert cosines(found, cpu_vectors(tiny_clip, pixels)).min() >= bound
    assert np.abs(np.linalg.norm(found.astype(np.float64), axis=1) - 1).max() < 1e-6


def test_every_launch_has_the_same_number_of_rows(tiny_clip: Path, memory: SmallMemory) -> None:
    device = device_of(tiny_clip, memory)
    device.warm_up(8)
    whole = vectors_of(device, noise(8, 32))
    for size in (1, 5, 7):
        assert np.array_equal(vectors_of(device, noise(8, 32)[:size]), whole[:size])
    assert len(vectors_of(device, noise(19, 32))) == 19
    assert set(memory.seen) == {8}


def test_the_rows_that_fill_a_batch_up_are_black_and_not_those_of_the_batch_before(
    tiny_clip: Path, memory: SmallMemory
) -> None:
    device = device_of(tiny_clip, memory)
    device.warm_up(8)
    black = vectors_of(device, torch.zeros(1, 32, 32, 3, dtype=torch.uint8))[0]
    device.start([noise(8, 32)])()
    (part,) = device.start([noise(8, 32)[:3]])()
    assert (part.rows, len(part.vectors)) == (3, 8)
    assert cosines(part.vectors[3:], np.broadcast_to(black, (5, 16))).min() >= 0.999999


def test_results_are_kept_while_later_batches_are_computed(tiny_clip: Path, memory: SmallMemory) -> None:
    device = device_of(tiny_clip, memory)
    device.warm_up(4)
    squares = noise(4, 32)
    waiting = [device.start([squares.roll(shift, 0)]) for shift in range(4)]
    found = [np.concatenate([part.vectors for part in wait()]) for wait in waiting]
    for shift, vectors in enumerate(found):
        assert cosines(vectors, np.roll(found[0], shift, axis=0)).min() >= 0.999999
        assert cosines(vectors, np.roll(found[0], shift + 1, axis=0)).max() < 0.999


def test_squares_may_change_as_soon_as_their_vectors_are_there(tiny_clip: Path, memory: SmallMemory) -> None:
    device = device_of(tiny_clip, memory)
    device.warm_up(4)
    squares = noise(4, 32)
    before = vectors_of(device, squares)
    squares.fill_(77)
    assert not np.array_equal(vectors_of(device, squares), before)
    assert np.array_equal(vectors_of(device, noise(4, 32)), before)


def test_a_batch_that_does_not_fit_is_halved_before_the_first_image(tiny_clip: Path, memory: SmallMemory) -> None:
    memory.rows = 16
    device = device_of(tiny_clip, memory)
    device.warm_up(50)
    assert memory.seen[:3] == [50, 25, 12]
    assert len(vectors_of(device, noise(50, 32))) == 50
    assert set(memory.seen[2:]) == {12}


def test_a_batch_that_does_not_fit_any_more_is_halved_and_so_are_all_after_it(
    tiny_clip: Path, memory: SmallMemory
) -> None:
    pixels = noise(50, 32)
    expected = cpu_vectors(tiny_clip, pixels)
    device = device_of(tiny_clip, memory)
    device.warm_up(40)
    memory.rows = 16  # another program takes the memory
    with structlog.testing.capture_logs() as logs:
        assert cosines(vectors_of(device, pixels), expected).min() >= 0.999999
    halved = [(line["rows"], line["now_at_most"]) for line in logs if line["event"] == "out_of_device_memory"]
    assert halved == [(40, 20), (20, 10)]
    memory.seen.clear()
    assert cosines(vectors_of(device, pixels), expected).min() >= 0.999999
    assert set(memory.seen) == {10}


def test_memory_that_does_not_hold_one_image_is_exhausted(tiny_clip: Path, memory: SmallMemory) -> None:
    memory.rows = 0
    with pytest.raises(ResourceExhausted, match="one image"):
        device_of(tiny_clip, memory).warm_up(6)
    assert memory.seen == [6, 3, 1]


def test_the_memory_of_a_batch_that_did_not_fit_is_free_without_garbage_collection(
    tiny_clip: Path, memory: SmallMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, made = torch.empty, []

    def watched(*shape: Any, **options: Any) -> torch.Tensor:  # noqa: ANN401
        tensor = empty(*shape, **options)
        made.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(torch, "empty", watched)  # the launcher's inputs come from there
    gc.disable()
    try:
        device = device_of(tiny_clip, memory)
        memory.rows = 10
        device.warm_up(32)
        assert [each() is None for each in made] == [True, True, False]
    finally:
        gc.enable()


def test_without_a_graph_the_kernels_are_launched_one_by_one_and_one_line_says_why(
    tiny_clip: Path, memory: SmallMemory
) -> None:
    device = device_of(tiny_clip, memory)
    with structlog.testing.capture_logs() as logs:
        device.warm_up(4)
        vectors_of(device, noise(4, 32))
    (line,) = [line for line in logs if line["event"] == "no_cuda_graph"]
    assert line["message"] == "each batch is launched kernel by kernel: CUDA error: this device has no graphs"


@pytest.mark.parametrize("model", ["tiny_clip", "wide_tower"])
def test_quick_gelu_as_silu_and_patches_as_a_product_give_the_same_vectors(
    model: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(model)
    source = find_model(str(folder), revision="")
    tower, changed = load_vision_tower(source), fuse_quick_gelu(project_patches(load_vision_tower(source)))
    pixels = noise(8, source.image_size)
    own, found = (Encoder(each, source, device=CPU, dtype=torch.float32).start([pixels])() for each in (tower, changed))
    assert np.abs(found - own).max() <= 1e-6
    kinds = {type(module).__name__ for module in changed.modules()}
    assert "QuickGELUActivation" not in kinds
    assert "Conv2d" not in kinds


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "gelu_pytorch_tanh"])
def test_another_activation_stays_as_it_is(activation: str, tiny_clip: Path) -> None:
    source = find_model(str(tiny_clip), revision="")
    tower = load_vision_tower(source)
    from transformers.activations import ACT2FN  # noqa: PLC0415

    for layer in tower.vision_model.encoder.layers:
        layer.mlp.activation_fn = ACT2FN[activation]
    kinds = [type(layer.mlp) for layer in tower.vision_model.encoder.layers]
    fuse_quick_gelu(tower)
    assert [type(layer.mlp) for layer in tower.vision_model.encoder.layers] == kinds


def test_a_tower_of_another_kind_stays_as_it_is() -> None:
    tower: Any = torch.nn.Linear(3, 3)
    with structlog.testing.capture_logs() as logs:
        assert fuse_quick_gelu(project_patches(tower)) is tower
    assert [line["event"] for line in logs] == ["patches_by_convolution", "whole_activation"]


@pytest.mark.parametrize(
    "convolution",
    [
        torch.nn.Conv2d(3, 8, kernel_size=4, stride=2, bias=False),
        torch.nn.Conv2d(3, 8, kernel_size=4, stride=4, bias=True),
        torch.nn.Conv2d(3, 8, kernel_size=(4, 2), stride=(4, 2), bias=False),
    ],
)
def test_a_convolution_of_another_kind_stays_as_it_is(convolution: torch.nn.Conv2d, tiny_clip: Path) -> None:
    tower = load_vision_tower(find_model(str(tiny_clip), revision=""))
    tower.vision_model.embeddings.patch_embedding = convolution
    assert project_patches(tower).vision_model.embeddings.patch_embedding is convolution


@pytest.mark.parametrize(
    ("gpu", "multiprocessors", "gibibytes", "expected"),
    [
        ("T4", 40, 15, 128),
        ("L4", 58, 22, 128),
        ("A100", 108, 40, 256),
        ("H100", 132, 80, 320),
        ("A100 1g.5gb", 14, 4.75, 64),
        ("a GPU of 1 GiB", 20, 1, 16),
        ("a GPU without memory", 1, 0, 1),
    ],
)
def test_batches_are_chosen_for_the_gpu(gpu: str, multiprocessors: int, gibibytes: float, expected: int) -> None:
    assert gpu_batch_size(multiprocessors, int(gibibytes * 2**30)) == expected, gpu
