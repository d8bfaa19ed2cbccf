"""From squares of pixels to vectors: the vision tower on its device. Only this module runs a model."""

from __future__ import annotations

import platform
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from common.errors import DeviceUnavailable, ResourceExhausted
from common.logs import log
from worker.encode.class_token_layer import shorten_last_layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import CLIPVisionModelWithProjection

    from worker.encode.model import ModelSource

MAX_BATCH_SIZE = 256
"""Largest default batch size in images. Larger batches are not faster on GPUs, by published ViT-B/32 throughput."""

CPU_ROWS_PER_THREAD = 32
"""Default number of images in a batch for each thread of a CPU. More images are not faster, as measured."""

CPU_ROWS_MULTIPLE = 8
"""Divisor of the number of rows in each part of a batch on a CPU.

A vector must be the same, to the last bit, whatever the other images of its batch. On CPUs in float32 it is not if the
number of rows is not a multiple of 4, because the matrix kernels compute the remaining rows differently. So the last
part of a batch is padded with a few rows.
"""


def choose_device(name: str) -> torch.device:
    """Return the device for `name`, a value of EMBEDDER_DEVICE. Raises DeviceUnavailable for `cuda` without a GPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        # Not a ConfigError, which would end the whole Job: only this node may be broken.
        raise DeviceUnavailable("EMBEDDER_DEVICE is cuda, but no CUDA device is visible; does the pod ask for a GPU?")
    return torch.device("cuda")


def choose_thread_count() -> int:
    """Return how many threads compute on a CPU: as many as torch would use."""
    return torch.get_num_threads()


def choose_batch_size(device: torch.device, *, threads: int) -> int:
    """Return the default batch size, above which `device` is not faster. `threads` is the number of CPU threads."""
    return MAX_BATCH_SIZE if device.type == "cuda" else min(CPU_ROWS_PER_THREAD * threads, MAX_BATCH_SIZE)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the type of the computation on `device` for `name`, a value of EMBEDDER_DTYPE."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if _cpu_computes_bfloat16() else torch.float32


def _cpu_computes_bfloat16() -> bool:
    # torch has no public function for this. On other systems than Linux, float32 is safe and not slower.
    try:
        flags = set(Path("/proc/cpuinfo").read_text("utf-8").split())
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & flags) or (platform.machine() == "aarch64" and "bf16" in flags)


class Encoder:
    """A vision tower on a device, ready for batches. It takes over a tower in float32 and changes it.

    On a CPU, each of `threads` threads computes its own part of a batch. torch would divide each operation among the
    threads instead. A batch has two hundred operations, and in each of them all threads would wait for the one that
    shares its core with a decoder.
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
        self._tower = shorten_last_layer(tower).to(device=device, dtype=dtype)
        # (x / 255 - mean) / std as one multiplication and one addition of a whole row of pixels. torch is twice as fast
        # with a whole row as with three channels.
        std = torch.tensor(source.std, device=device)  # (3,)
        self._scale = (1 / (255 * std)).repeat(source.image_size)  # (3 size,)
        self._shift = (-torch.tensor(source.mean, device=device) / std).repeat(source.image_size)  # (3 size,)
        self._max_rows: int | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        else:
            self._thread_count = threads
            # The threads end together with this object.
            self._threads = ThreadPoolExecutor(
                threads, thread_name_prefix="compute", initializer=torch.set_num_threads, initargs=(1,)
            )
            self._workspaces = threading.local()

    def warm_up(self, batch_size: int) -> None:
        """On a GPU, encode an empty batch, so that kernels are loaded before the first images wait for them."""
        if self.device.type == "cuda":
            self.start(torch.zeros(batch_size, self.image_size, self.image_size, 3, dtype=torch.uint8))()

    def start(self, pixels: Tensor) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode `pixels`, uint8 (rows, size, size, 3), and return a function that waits for the vectors.

        The vectors are float32 (rows, dimensions), each of L2 norm 1, or not finite if the model's output is not
        finite. `pixels` must not change until the vectors are there. `start` does not wait for the device. A batch that
        does not fit in the device's memory is halved, and so are all batches after it. Either function raises
        ResourceExhausted if not even one image fits.
        """
        if self.device.type == "cuda":
            return self._start(pixels)
        rows = -(-len(pixels) // self._thread_count)
        parts = torch.split(pixels, rows + -rows % CPU_ROWS_MULTIPLE)
        begun = [self._threads.submit(self._encode, part) for part in parts]
        return lambda: np.concatenate([part.result() for part in begun])

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
        parts = [self._start(part) for part in torch.split(pixels, self._max_rows)]
        return lambda: np.concatenate([part() for part in parts])

    def _start_on_cpu(self, pixels: Tensor) -> Callable[[], NDArray[np.float32]]:
        vectors = self._vectors(_padded(pixels, CPU_ROWS_MULTIPLE))[: len(pixels)].numpy()  # (rows, dimensions)
        return lambda: vectors

    def _start_on_cuda(self, pixels: Tensor) -> Callable[[], NDArray[np.float32]]:
        compute = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            on_device = pixels.to(self.device, non_blocking=True)  # uint8 (rows, size, size, 3)
        compute.wait_stream(self._copies)
        on_device.record_stream(compute)
        result = torch.empty(len(pixels), self.dimensions, dtype=torch.float32, pin_memory=True)
        result.copy_(self._vectors(on_device), non_blocking=True)  # (rows, dimensions)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(compute)

        def finish() -> NDArray[np.float32]:
            done.synchronize()
            return result.numpy()

        return finish

    def _vectors(self, pixels: Tensor) -> Tensor:
        normalised = self._normalised(pixels.flatten(2))  # (rows, size, 3 size) in the compute dtype
        channels_first = normalised.view(pixels.shape).permute(0, 3, 1, 2)  # (rows, 3, size, size)
        features = self._tower(pixel_values=channels_first).image_embeds.float()  # (rows, dimensions)
        vectors: Tensor = functional.normalize(features, dim=-1, eps=0)  # (rows, dimensions)
        return vectors

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Return pixels, uint8 (rows, size, 3 size), as the model expects them, in the compute dtype."""
        if self.device.type == "cuda":
            return torch.addcmul(self._shift, pixels, self._scale).to(self.dtype)
        # Each thread keeps these 30 MB. Between two batches the heap would give them to other threads, and new memory
        # costs a page fault for each page.
        kept: tuple[Tensor, Tensor] | None = getattr(self._workspaces, "kept", None)
        if kept is None or len(kept[0]) < len(pixels):
            kept = self._workspaces.kept = torch.empty(pixels.shape), torch.empty(pixels.shape, dtype=self.dtype)
        floats, inputs = (tensor[: len(pixels)] for tensor in kept)
        floats.copy_(pixels)
        torch.addcmul(self._shift, floats, self._scale, out=floats)
        return floats if self.dtype is torch.float32 else inputs.copy_(floats)


def _padded(pixels: Tensor, multiple: int) -> Tensor:
    """Add black rows to (rows, size, size, 3) until the number of rows is a multiple."""
    missing = -len(pixels) % multiple
    return torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])]) if missing else pixels
