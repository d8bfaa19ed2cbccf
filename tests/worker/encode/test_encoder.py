"""Vectors equal those of transformers, and only an image's pixels decide its vector."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers

from common.errors import DeviceUnavailable, ResourceExhausted
from tests.worker.encode.models import TINY_VISION, save_clip, save_preprocessor, save_vision_tower
from tests.worker.encode.vectors import cosines, noise
from tests.worker.images import PHOTOS
from worker.decode.preprocess import image_square
from worker.encode.encoder import Encoder, choose_batch_size, choose_dtype
from worker.encode.model import UNTRAINED, find_model
from worker.encode.vision_tower import load_vision_tower

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
COSINE_BOUNDS = {torch.float32: 0.999999, torch.bfloat16: 0.999}


def encoder_of(folder: Path, dtype: torch.dtype = torch.float32, *, threads: int = 1) -> Encoder:
    source = find_model(str(folder), revision="")
    return Encoder(load_vision_tower(source), source, device=CPU, dtype=dtype, threads=threads)


def vectors_of(encoder: Encoder, *pieces: torch.Tensor) -> NDArray[np.float32]:
    return encoder.start(pieces)()


def transformers_vectors(folder: Path, pixels: torch.Tensor) -> NDArray[np.float64]:
    """Return the vectors of CLIPModel for `pixels`, uint8 (rows, size, size, 3), normalised as its processor does."""
    source = find_model(str(folder), revision="")
    mean, std = torch.tensor(source.mean).view(3, 1, 1), torch.tensor(source.std).view(3, 1, 1)
    model = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        features: Any = model.get_image_features(pixel_values=(pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
    # transformers 5 returns an output object, older versions return the tensor.
    vectors = (features if isinstance(features, torch.Tensor) else features.pooler_output).double().numpy()
    normalised: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normalised


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """The squares of all example photos, (photos, 224, 224, 3)."""
    return torch.stack([image_square(path.read_bytes(), max_pixels=10**9) for path in PHOTOS])


@pytest.fixture(scope="module")
def expected(base_clip: Path, photos: torch.Tensor) -> NDArray[np.float64]:
    return transformers_vectors(base_clip, photos)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_photos_vector_is_that_of_transformers_and_does_not_depend_on_the_batch(
    dtype: torch.dtype, base_clip: Path, photos: torch.Tensor, expected: NDArray[np.float64]
) -> None:
    encoder = encoder_of(base_clip, dtype)
    vectors = vectors_of(encoder, photos)
    assert vectors.shape == (len(PHOTOS), 512)
    assert vectors.dtype == np.float32
    assert cosines(vectors, expected).min() >= COSINE_BOUNDS[dtype]
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6
    # Different photos are further apart than the bound, else the bound would show nothing.
    apart = cosines(np.roll(vectors, 1, axis=0), expected)
    assert apart.max() < COSINE_BOUNDS[dtype]
    for start, stop in ((0, 1), (1, 6)):
        assert np.array_equal(vectors_of(encoder, photos[start:stop]), vectors[start:stop])


def test_the_last_layer_computes_only_the_class_token(base_clip: Path) -> None:
    source = find_model(str(base_clip), revision="")
    tower = load_vision_tower(source)
    encoder = Encoder(tower, source, device=CPU, dtype=torch.float32)
    shapes = []
    for layer in tower.vision_model.encoder.layers:
        layer.register_forward_hook(lambda _, __, output: shapes.append(output.shape[1]))
    vectors_of(encoder, noise(1, source.image_size))
    assert shapes == [50] * 11 + [1]


def test_a_loaded_tower_can_be_saved_unchanged(tiny_clip: Path, tmp_path: Path) -> None:
    load_vision_tower(find_model(str(tiny_clip), revision="")).save_pretrained(tmp_path)
    pixels = noise(3, find_model(str(tiny_clip), revision="").image_size)
    assert np.array_equal(vectors_of(encoder_of(tmp_path), pixels), vectors_of(encoder_of(tiny_clip), pixels))


def test_a_last_layer_that_computes_something_else_is_not_shortened(
    tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = transformers.models.clip.modeling_clip.CLIPAttention
    right = attention.forward

    def doubled(self: Any, *given: Any, **named: Any) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        return 2 * right(self, *given, **named)[0], None

    monkeypatch.setattr(attention, "forward", doubled)
    pixels = noise(3, find_model(str(tiny_clip), revision="").image_size)
    assert cosines(vectors_of(encoder_of(tiny_clip), pixels), transformers_vectors(tiny_clip, pixels)).min() > 0.999999


def test_a_tower_without_layers_is_used_as_it_is(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "m", vision=TINY_VISION | {"num_hidden_layers": 0}, projection_dim=16)
    pixels = noise(3, find_model(str(folder), revision="").image_size)
    assert cosines(vectors_of(encoder_of(folder), pixels), transformers_vectors(folder, pixels)).min() > 0.999999


def _as_336(folder: Path) -> Path:
    """Save a vision tower for 336 x 336 pixels, like L/14@336."""
    return save_vision_tower(folder, vision=TINY_VISION | {"image_size": 336, "patch_size": 56}, projection_dim=24)


def _as_large(folder: Path) -> Path:
    """Save a model like L/14: with patches of 14 pixels and a projection that is narrower than the tower."""
    vision = TINY_VISION | {"hidden_size": 64, "num_hidden_layers": 3, "image_size": 56, "patch_size": 14}
    return save_clip(folder, vision=vision, projection_dim=48)


def _with_another_mean(folder: Path) -> Path:
    save_clip(folder, vision=TINY_VISION, projection_dim=16)
    save_preprocessor(folder, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return folder


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", [_as_large, _with_another_mean])
def test_other_models_follow_their_own_configuration(
    make: Callable[[Path], Path], dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = make(tmp_path / "m")
    encoder = encoder_of(folder, dtype)
    pixels = noise(5, encoder.image_size)
    vectors, own = vectors_of(encoder, pixels), transformers_vectors(folder, pixels)
    assert vectors.shape == own.shape == (5, encoder.dimensions)
    assert cosines(vectors, own).min() >= COSINE_BOUNDS[dtype]


def test_a_vision_tower_alone_of_another_image_size_is_encoded(tmp_path: Path) -> None:
    folder = _as_336(tmp_path / "m")
    encoder = encoder_of(folder)
    assert (encoder.image_size, encoder.dimensions) == (336, 24)
    pixels = noise(3, 336)
    tower = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    source = find_model(str(folder), revision="")
    mean, std = torch.tensor(source.mean).view(3, 1, 1), torch.tensor(source.std).view(3, 1, 1)
    with torch.inference_mode():
        own = tower(pixel_values=(pixels.permute(0, 3, 1, 2) / 255 - mean) / std).image_embeds.numpy()
    assert cosines(vectors_of(encoder, pixels), own).min() >= COSINE_BOUNDS[torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_vector_does_not_depend_on_its_batch_to_the_bit(dtype: torch.dtype, wide_tower: Path) -> None:
    # The tower has its real width. In a far narrower tower, the order of the kernels' sums depends on the rows.
    encoder = encoder_of(wide_tower, dtype)
    pixels = noise(17, encoder.image_size)
    whole = vectors_of(encoder, pixels)
    for size in range(1, 17):
        assert np.array_equal(vectors_of(encoder, pixels[-size:]), whole[-size:]), size
    for threads in (2, 3, 5):
        assert np.array_equal(vectors_of(encoder_of(wide_tower, dtype, threads=threads), pixels), whole), threads
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(3))
    assert np.array_equal(vectors_of(encoder, pixels[order]), whole[order.numpy()])


def test_the_untrained_model_is_the_same_each_time() -> None:
    source = find_model(UNTRAINED, revision="")
    one, other = load_vision_tower(source).state_dict(), load_vision_tower(source).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["visual_projection.weight"].shape == (512, 768)


def test_the_pieces_of_a_batch_give_the_same_vectors_as_the_whole_to_the_bit(wide_tower: Path) -> None:
    encoder = encoder_of(wide_tower, threads=2)
    pixels = noise(21, encoder.image_size)
    whole = vectors_of(encoder, pixels)
    for sizes in ([1, 20], [8, 8, 5], [1] * 21, [13, 1, 7]):
        assert np.array_equal(vectors_of(encoder, *torch.split(pixels, sizes)), whole), sizes


class Crowd(torch.nn.Module):
    """A vision tower in which each thread waits until `threads` threads are in it at the same time."""

    def __init__(self, tower: torch.nn.Module, *, threads: int) -> None:
        super().__init__()
        self.tower, self.config = tower, tower.config
        self.rows: list[int] = []
        self.inner_threads: list[int] = []
        self._all_in = threading.Barrier(threads)

    def forward(self, pixel_values: torch.Tensor) -> Any:  # noqa: ANN401 - transformers' output
        self.rows.append(len(pixel_values))
        self.inner_threads.append(torch.get_num_threads())
        self._all_in.wait(timeout=60)
        return self.tower(pixel_values=pixel_values)


@pytest.mark.parametrize(("rows", "threads", "seen"), [(64, 2, [32, 32]), (33, 2, [24, 16]), (33, 3, [16, 16, 16])])
def test_each_thread_of_a_cpu_computes_its_own_part_of_the_batch(
    rows: int, threads: int, seen: list[int], tiny_clip: Path
) -> None:
    source = find_model(str(tiny_clip), revision="")
    crowd = Crowd(load_vision_tower(source), threads=threads)
    encoder = Encoder(crowd, source, device=CPU, dtype=torch.float32, threads=threads)
    pixels = noise(rows, source.image_size)
    threads_of_caller = torch.get_num_threads()
    assert cosines(vectors_of(encoder, pixels), vectors_of(encoder_of(tiny_clip), pixels)).min() >= 0.999999
    assert sorted(crowd.rows, reverse=True) == seen
    assert set(crowd.inner_threads) == {1}
    assert torch.get_num_threads() == threads_of_caller


def test_a_batch_begins_while_another_is_computed(tiny_clip: Path) -> None:
    source = find_model(str(tiny_clip), revision="")
    encoder = Encoder(Crowd(load_vision_tower(source), threads=2), source, device=CPU, dtype=torch.float32, threads=2)
    batches = [noise(8, source.image_size), noise(7, source.image_size)]  # each batch is work for one thread
    expected = [vectors_of(encoder_of(tiny_clip), batch) for batch in batches]
    for vectors, own in zip([encoder.start([batch]) for batch in batches], expected, strict=True):
        assert cosines(vectors(), own).min() >= 0.999999


def test_a_default_batch_has_work_for_every_thread() -> None:
    assert [choose_batch_size(CPU, threads=threads) for threads in (1, 2, 8, 16, 64)] == [32, 64, 256, 256, 1024]


class Broken(torch.nn.Module):
    """A vision tower that raises an error for its first batch."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower, self.config = tower, tower.config
        self.is_broken = True

    def forward(self, pixel_values: torch.Tensor) -> Any:  # noqa: ANN401 - transformers' output
        if self.is_broken:
            self.is_broken = False
            raise ZeroDivisionError
        return self.tower(pixel_values=pixel_values)


def test_whoever_waits_for_the_vectors_gets_the_error_and_the_thread_continues(tiny_clip: Path) -> None:
    source = find_model(str(tiny_clip), revision="")
    encoder = Encoder(Broken(load_vision_tower(source)), source, device=CPU, dtype=torch.float32)
    failing, following = (encoder.start([noise(3, source.image_size)]) for _ in range(2))
    with pytest.raises(ZeroDivisionError):
        failing()
    assert following().shape == (3, encoder.dimensions)


def test_the_threads_of_an_encoder_end_with_it(tiny_clip: Path) -> None:
    before = set(threading.enumerate())
    encoder = encoder_of(tiny_clip, threads=2)
    vectors_of(encoder, noise(16, encoder.image_size))
    threads = set(threading.enumerate()) - before
    assert threads
    del encoder
    gc.collect()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


class Failing(torch.nn.Module):
    """A vision tower that raises `error`."""

    def __init__(self, tower: torch.nn.Module, error: Exception) -> None:
        super().__init__()
        self.config, self.error = tower.config, error

    def forward(self, pixel_values: torch.Tensor) -> Any:  # noqa: ANN401, ARG002
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nFor debugging consider"),
            "cpu failed: CUDA error: an illegal memory access was encountered; the chunk can be computed on another",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "cpu failed: cuDNN error"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle)`"),
            "cpu failed: ",
        ),
    ],
)
def test_a_device_that_fails_is_named_and_is_no_bug(tiny_clip: Path, error: Exception, said: str) -> None:
    source = find_model(str(tiny_clip), revision="")
    encoder = Encoder(Failing(load_vision_tower(source), error), source, device=CPU, dtype=torch.float32)
    with pytest.raises(DeviceUnavailable) as raised:
        vectors_of(encoder, noise(3, source.image_size))
    assert str(raised.value).startswith(said)
    assert "debugging" not in str(raised.value)


def test_an_error_that_no_device_makes_stays_what_it_is(tiny_clip: Path) -> None:
    source = find_model(str(tiny_clip), revision="")
    tower = Failing(load_vision_tower(source), RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        vectors_of(Encoder(tower, source, device=CPU, dtype=torch.float32), noise(3, source.image_size))


def test_memory_of_the_device_that_does_not_hold_the_work_is_exhausted(tiny_clip: Path) -> None:
    source = find_model(str(tiny_clip), revision="")
    tower = Failing(load_vision_tower(source), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"))
    with pytest.raises(ResourceExhausted, match="the memory of cpu is too small: CUDA out of memory"):
        vectors_of(Encoder(tower, source, device=CPU, dtype=torch.float32), noise(3, source.image_size))


class WhiteIsBad(torch.nn.Module):
    """A vision tower whose output is not finite for images that are white."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower, self.config = tower, tower.config

    def forward(self, pixel_values: torch.Tensor) -> Any:  # noqa: ANN401 - transformers' output
        output = self.tower(pixel_values=pixel_values)
        output.image_embeds[pixel_values.amin(dim=(1, 2, 3)) > 1.5] = float("inf")
        return output


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("rows", "bad"), [(40, [0, 7, 39]), (5, [0, 1, 2, 3, 4]), (1, [0])])
def test_output_that_is_not_finite_stays_so_and_the_other_rows_are_sound(
    rows: int, bad: list[int], threads: int, tiny_clip: Path
) -> None:
    source = find_model(str(tiny_clip), revision="")
    pixels = noise(rows, source.image_size)
    pixels[bad] = 255
    tower = WhiteIsBad(load_vision_tower(source))
    vectors = vectors_of(Encoder(tower, source, device=CPU, dtype=torch.float32, threads=threads), pixels)
    assert np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist() == bad


@pytest.mark.parametrize("weight", [0, float("inf")])
def test_a_batch_without_one_finite_vector_is_the_devices_fault_not_the_images(weight: float, tiny_clip: Path) -> None:
    # With weights of 0, all vectors have length 0. They cannot be normalised.
    source = find_model(str(tiny_clip), revision="")
    tower = load_vision_tower(source)
    with torch.no_grad():
        tower.visual_projection.weight.fill_(weight)
    encoder = Encoder(tower, source, device=CPU, dtype=torch.float32)
    with pytest.raises(DeviceUnavailable, match=r"cpu gave no finite vector for a batch of 2 images.*EMBEDDER_DTYPE"):
        vectors_of(encoder, noise(2, source.image_size))


def test_a_device_that_takes_too_long_is_named_with_its_limit(tiny_clip: Path) -> None:
    encoder = encoder_of(tiny_clip)
    assert encoder.device_name == "cpu"
    error = encoder.too_slow(0.5)
    assert isinstance(error, DeviceUnavailable)
    assert str(error).startswith("cpu has not answered for 0.5 s (EMBEDDER_ENCODE_TIMEOUT_SECONDS)")


def test_a_named_dtype_is_used_and_auto_depends_on_the_device() -> None:
    for name in ("float32", "bfloat16", "float16"):
        assert choose_dtype(name, CPU) == getattr(torch, name)
    assert choose_dtype("auto", torch.device("cuda")) == torch.float16
    assert choose_dtype("auto", CPU) in {torch.float32, torch.bfloat16}
