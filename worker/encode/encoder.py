"""From squares of pixels to vectors: the vision tower on the device that is chosen for it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.errors import DeviceUnavailable
from common.logs import log
from worker.encode.class_token_layer import shorten_last_layer
from worker.encode.cpu_device import LEAST_ROWS, CpuDevice
from worker.encode.cuda_device import CudaDevice
from worker.encode.cuda_driver import read_cuda_facts, usable_gpu, why_none
from worker.encode.device_faults import does_not_answer, faults_of
from worker.encode.forward_pass import ForwardPass
from worker.encode.patch_projection import project_patches
from worker.encode.pieces import rows_in
from worker.encode.quick_gelu import fuse_quick_gelu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import CLIPVisionModelWithProjection

    from worker.encode.computation import Computed, Device
    from worker.encode.cuda_driver import CudaFacts
    from worker.encode.model import ModelSource

CPU_ROWS_PER_THREAD = 32
"""Default number of images in a batch for each thread of a CPU. More images are not faster, as measured."""

MAX_CPU_BATCH_SIZE = 256
"""Largest default number of images in a batch on a CPU, unless threads would get fewer than they compute together."""

GPU_ROWS_PER_MULTIPROCESSOR = 2.4
"""Default number of images in a batch for each multiprocessor of a GPU. See `gpu_batch_size`."""

GPU_MEMORY_PER_ROW = 64 << 20
"""Memory of a GPU in bytes for each image of a default batch. The largest CLIP models take a third of it in float32."""


def choose_device(name: str, facts: CudaFacts | None = None) -> torch.device:
    """Return the device for `name`, a value of EMBEDDER_DEVICE. Without `facts`, this machine is looked at.

    Raises DeviceUnavailable if the machine has a GPU that cannot be used, or for `cuda` if there is no GPU. It is not a
    ConfigError, which would end the whole Job: only this node may be broken.
    """
    if name == "cpu":
        return torch.device("cpu")
    facts = read_cuda_facts() if facts is None else facts
    gpu = usable_gpu(facts)
    if gpu is None:
        if name == "auto":
            return torch.device("cpu")
        raise DeviceUnavailable(f"EMBEDDER_DEVICE is cuda, but {why_none(facts)}")
    if idle := len(facts.gpus) - 1:
        others = f"{idle} more GPUs are visible and stay" if idle > 1 else "1 more GPU is visible and stays"
        log.warning("idle_gpus", message=f"this worker uses cuda:0 ({gpu.name}); {others} idle; give each pod one GPU")
    return torch.device("cuda", 0)


def choose_thread_count() -> int:
    """Return how many threads compute on a CPU: as many as torch would use."""
    return torch.get_num_threads()


def choose_batch_size(device: torch.device, *, threads: int) -> int:
    """Return the default batch size, above which `device` is not faster. `threads` is the number of CPU threads."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return gpu_batch_size(properties.multi_processor_count, properties.total_memory)
    return min(CPU_ROWS_PER_THREAD * threads, max(MAX_CPU_BATCH_SIZE, LEAST_ROWS * threads))


def gpu_batch_size(multiprocessors: int, memory_bytes: int) -> int:
    """Return the default batch size of a GPU: 128 on T4 and L4, 256 on A100, 320 on H100.

    A product of matrices is divided into tiles of 128 x 128, and each multiprocessor computes one tile at a time. An
    image of ViT-B/32 has 50 tokens, so the smallest products of a batch (768 columns) have 50 / 128 x 768 / 128 = 2.3
    tiles for each image. With 2.4 images for each multiprocessor, that makes between five and six rounds of tiles, and
    only the last round is not full. The number is rounded to a multiple of 64, whose tokens fill whole tiles. It is an
    estimate, not measured. A larger batch takes more memory, and the last batch of a chunk costs more.
    """
    rows = 64 * max(1, round(GPU_ROWS_PER_MULTIPROCESSOR * multiprocessors / 64))
    return max(1, min(rows, memory_bytes // GPU_MEMORY_PER_ROW))


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

    `threads` is the number of threads that compute if the device is a CPU.
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
        self.device_name = name_device(device)
        """The device with its index and model, as `cuda:0 (NVIDIA L4)`, or `cpu`."""
        self.gpu_count = torch.cuda.device_count() if device.type == "cuda" else 0
        """Number of GPUs that this process sees, so that no other pod has them."""
        with faults_of(self.device_name):
            if device.type == "cuda":
                tower = fuse_quick_gelu(project_patches(tower))
            tower = shorten_last_layer(tower).to(device=device, dtype=dtype)
            forward = ForwardPass(tower, source, device=device, dtype=dtype)
            self._device: Device = CudaDevice(forward) if device.type == "cuda" else CpuDevice(forward, threads=threads)
        self.dimensions = forward.dimensions
        self.image_size = forward.image_size

    def warm_up(self, batch_size: int) -> None:
        """On a GPU, prepare for batches of this size, so that the first images do not wait for it.

        Raises ResourceExhausted if the GPU's memory does not hold one image, and DeviceUnavailable if the GPU fails.
        """
        if self.device.type == "cuda":
            with faults_of(self.device_name):
                self._device.warm_up(batch_size)
            self.start([torch.zeros(1, self.image_size, self.image_size, 3, dtype=torch.uint8)])()

    def start(self, pieces: Sequence[Tensor]) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode a batch, and return a function that waits for its vectors.

        The batch comes in pieces, each uint8 (rows, size, size, 3). The vectors are float32 (rows of all pieces,
        dimensions) in the order of the pieces, each of L2 norm 1, or not finite if the model's output is not finite.
        They stay as they are. The pieces must not change until the vectors are there. `start` does not wait for the
        device. A batch that does not fit in a GPU's memory is halved, and so are all batches after it.

        Both functions raise DeviceUnavailable if the device fails, which it also does if it gives not one finite vector
        for a whole batch, and ResourceExhausted if its memory does not hold one image.
        """
        with faults_of(self.device_name):
            wait = self._device.start(pieces)

        def vectors() -> NDArray[np.float32]:
            with faults_of(self.device_name):
                parts = wait()
            if not _has_finite_row(parts):
                raise DeviceUnavailable(
                    f"{self.device_name} gave no finite vector for a batch of {rows_in(pieces)} images, so it may be "
                    f"faulty; if other devices do the same, the model's numbers do not fit "
                    f"{str(self.dtype).removeprefix('torch.')}: set EMBEDDER_DTYPE to float32"
                )
            found = [part.vectors[: part.rows] for part in parts]
            return found[0] if len(found) == 1 else np.concatenate(found)

        return vectors

    def too_slow(self, seconds: float) -> DeviceUnavailable:
        """Return the error to raise when a batch takes longer than `seconds`, the limit."""
        return does_not_answer(self.device_name, seconds)


def name_device(device: torch.device) -> str:
    """Return the device with its index and model, as `cuda:0 (NVIDIA L4)`, or `cpu`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _has_finite_row(parts: Sequence[Computed]) -> bool:
    # The rows that fill a batch up count too: without them, a bad image alone in a batch would look like a fault.
    return any(np.isfinite(row).all() for part in parts for row in part.vectors)
