"""From squares of pixels to vectors: the vision tower on its device. The one module that runs a model."""

from __future__ import annotations

import platform
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common.errors import DeviceUnavailable, ModelError, ResourceExhausted
from common.logs import log
from common.process.resources import exhausted
from worker.encode.compute_threads import ComputeThreads
from worker.encode.model import UNTRAINED_SEED

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import CLIPVisionModelWithProjection

    from worker.encode.model import ModelSource

MAX_BATCH_SIZE = 256
"""Where more is no faster on GPUs, from published ViT-B/32 throughput."""

CPU_ROWS_PER_THREAD = 32
"""Where more is no faster, measured."""

CPU_ROWS_MULTIPLE = 8
"""A vector must not depend on which images it shares a batch with, down to the last bit. On CPUs it does in float32
where a batch's rows are no multiple of 4, since the matrix kernels treat the remainder otherwise; the last batch of a
chunk is therefore filled up by a few rows."""


def choose_device(name: str) -> torch.device:
    """Return the device that setting `name` means. Raises DeviceUnavailable for CUDA where there is none."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        # Not a ConfigError: one broken node would end the whole Job, and on another one the chunk may succeed.
        raise DeviceUnavailable("EMBEDDER_DEVICE is cuda, but no CUDA device is visible; does the pod ask for a GPU?")
    return torch.device("cuda")


def choose_batch_size(device: torch.device, *, threads: int) -> int:
    """Return where more is no faster on `device`, with so many threads on a CPU."""
    return MAX_BATCH_SIZE if device.type == "cuda" else min(CPU_ROWS_PER_THREAD * threads, MAX_BATCH_SIZE)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the type of the computation that setting `name` means on `device`."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if _cpu_computes_bfloat16() else torch.float32


def _cpu_computes_bfloat16() -> bool:
    # torch has no public question for it; elsewhere than on Linux float32 is safe and no slower.
    try:
        flags = set(Path("/proc/cpuinfo").read_text("utf-8").split())
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & flags) or (platform.machine() == "aarch64" and "bf16" in flags)


def load_vision_tower(source: ModelSource) -> CLIPVisionModelWithProjection:
    """Return the model's vision tower with its projection, in float32. Raises ModelError when its files do not fit."""
    # Imported here: the import takes seconds, in which the first images are fetched and decoded.
    import transformers  # noqa: PLC0415

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = transformers.CLIPVisionModelWithProjection
    if source.folder is None:
        torch.manual_seed(UNTRAINED_SEED)
        return kind(transformers.CLIPVisionConfig(projection_dim=512)).eval()
    try:
        model, info = kind.from_pretrained(
            source.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except MemoryError:
        raise
    except Exception as error:  # the library raises a dozen kinds, and each means that these files are no such model
        if (lack := exhausted(error)) is not None:
            raise lack from error
        raise ModelError(f"{source.name} cannot be loaded from {source.folder}: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{source.name} lacks {len(missing)} weights of a vision tower, the first is {missing[0]}")
    return model.eval()


def _for_class_token(tower: CLIPVisionModelWithProjection) -> CLIPVisionModelWithProjection:
    """Return the tower with its last layer shortened, unless a release of the library computes that otherwise."""
    tokens = torch.sin(torch.arange(3.0 * tower.config.hidden_size)).view(1, 3, -1)
    try:
        layers = tower.vision_model.encoder.layers
        shortened = _ClassTokenLayer(layers[-1])
        with torch.inference_mode():
            whole = layers[-1](tokens, attention_mask=None)[:, :1]
            if torch.allclose(shortened(tokens), whole, rtol=1e-3, atol=1e-4):
                layers[-1] = shortened
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        if (lack := exhausted(error)) is not None:
            raise lack from error
        log.info("whole_last_layer", error=str(error))
    return tower


class _ClassTokenLayer(nn.Module):
    """A tower's last layer, computed for the class token alone: the projection reads nothing else of it.

    Of ViT-B/32 that is three quarters of the layer, 6 % of the whole.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    def forward(self, tokens: Tensor, *_: object, **__: object) -> Tensor:
        """Take (rows, tokens, width) and return (rows, 1, width)."""
        attention = self.layer.self_attn

        def heads(projected: Tensor) -> Tensor:
            split = projected.view(*projected.shape[:-1], -1, attention.head_dim)
            return split.transpose(1, 2)  # (rows, heads, tokens, head_dim)

        normed = self.layer.layer_norm1(tokens)
        attended = functional.scaled_dot_product_attention(
            heads(attention.q_proj(normed[:, :1])), heads(attention.k_proj(normed)), heads(attention.v_proj(normed))
        )  # scaled by head_dim ** -0.5
        token = tokens[:, :1] + attention.out_proj(attended.transpose(1, 2).flatten(2))
        result: Tensor = token + self.layer.mlp(self.layer.layer_norm2(token))
        return result


class Encoder:
    """A vision tower on a device, ready for batches. It takes the tower, in float32, and changes it.

    On a CPU each of `threads` threads computes a part of a batch by itself. Were each operation divided among them, as
    torch does, then all would wait for the one that shares its core with a decoder, two hundred times a batch.
    """

    def __init__(
        self,
        tower: CLIPVisionModelWithProjection,
        source: ModelSource,
        *,
        device: torch.device,
        dtype: torch.dtype,
        threads: int = 1,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.dimensions = int(tower.config.projection_dim)
        self.image_size = source.image_size
        self._tower = _for_class_token(tower).to(device=device, dtype=dtype)
        # (x / 255 - mean) / std as one multiplication and one addition; for a whole row of pixels, since torch is twice
        # as fast where it need not step over three channels.
        std = torch.tensor(source.std, device=device)
        self._scale = (1 / (255 * std)).repeat(source.image_size)  # (3 size)
        self._shift = (-torch.tensor(source.mean, device=device) / std).repeat(source.image_size)
        self._max_rows: int | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        else:
            self._threads = ComputeThreads(threads)
            self._workspaces = threading.local()

    def warm_up(self, batch_size: int) -> None:
        """Run an empty batch where the first one would otherwise load kernels while images wait."""
        if self.device.type == "cuda":
            self.start(torch.zeros(batch_size, self.image_size, self.image_size, 3, dtype=torch.uint8))()

    def start(self, pixels: Tensor) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode `pixels`, uint8 (rows, size, size, 3), and return what waits for the vectors.

        The vectors are float32 (rows, dimensions), each of L2 norm 1, or not finite where the model's output is not.
        `pixels` must stay as they are until the vectors have been waited for. Nothing here waits for the device; a
        batch that does not fit in its memory is halved, and so are all after it. Here or while waiting, raises
        ResourceExhausted when not even one image fits.
        """
        if self.device.type == "cuda":
            return self._start(pixels)
        rows = -(-len(pixels) // self._threads.count)
        pieces = torch.split(pixels, rows + -rows % CPU_ROWS_MULTIPLE)
        begun = [self._threads.submit(partial(self._encode, piece)) for piece in pieces]
        return lambda: np.concatenate([piece.result() for piece in begun])

    def _encode(self, pixels: Tensor) -> NDArray[np.float32]:
        return self._start(pixels)()

    @torch.inference_mode()
    def _start(self, pixels: Tensor) -> Callable[[], NDArray[np.float32]]:
        if self._max_rows is None or len(pixels) <= self._max_rows:
            try:
                return self._start_on_cuda(pixels) if self.device.type == "cuda" else self._start_on_cpu(pixels)
            except torch.OutOfMemoryError as error:
                if len(pixels) == 1:
                    raise ResourceExhausted("the device's memory does not hold one image") from error
            self._max_rows = len(pixels) // 2
            log.warning("out_of_device_memory", rows=len(pixels), now_at_most=self._max_rows)
            torch.cuda.empty_cache()
        pieces = [self._start(piece) for piece in torch.split(pixels, self._max_rows)]
        return lambda: np.concatenate([piece() for piece in pieces])

    def _start_on_cpu(self, pixels: Tensor) -> Callable[[], NDArray[np.float32]]:
        vectors = self._vectors(_padded(pixels, CPU_ROWS_MULTIPLE))[: len(pixels)].numpy()
        return lambda: vectors

    def _start_on_cuda(self, pixels: Tensor) -> Callable[[], NDArray[np.float32]]:
        compute = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            on_device = pixels.to(self.device, non_blocking=True)
        compute.wait_stream(self._copies)
        on_device.record_stream(compute)
        result = torch.empty(len(pixels), self.dimensions, dtype=torch.float32, pin_memory=True)
        result.copy_(self._vectors(on_device), non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(compute)

        def finish() -> NDArray[np.float32]:
            done.synchronize()
            return result.numpy()

        return finish

    def _vectors(self, pixels: Tensor) -> Tensor:
        normalised = self._normalised(pixels.flatten(2))  # (rows, size, 3 size)
        channels_first = normalised.view(pixels.shape).permute(0, 3, 1, 2)  # (rows, 3, size, size)
        features = self._tower(pixel_values=channels_first).image_embeds.float()
        vectors: Tensor = functional.normalize(features, dim=-1, eps=0)  # (rows, dimensions)
        return vectors

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Return pixels, uint8 (rows, size, 3 size), as the model expects them and in its type."""
        if self.device.type == "cuda":
            return torch.addcmul(self._shift, pixels, self._scale).to(self.dtype)
        # These 30 MB a thread stay: a CPU's heap gives what is free between two batches to others, and new memory comes
        # page by page, each a fault.
        kept: tuple[Tensor, Tensor] | None = getattr(self._workspaces, "kept", None)
        if kept is None or len(kept[0]) < len(pixels):
            kept = self._workspaces.kept = torch.empty(pixels.shape), torch.empty(pixels.shape, dtype=self.dtype)
        floats, inputs = (tensor[: len(pixels)] for tensor in kept)
        floats.copy_(pixels)
        torch.addcmul(self._shift, floats, self._scale, out=floats)
        return floats if self.dtype is torch.float32 else inputs.copy_(floats)


def _padded(pixels: Tensor, multiple: int) -> Tensor:
    missing = -len(pixels) % multiple
    return torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])]) if missing else pixels
