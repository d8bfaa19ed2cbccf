"""What to ask for: chunks, cores and memory, by the rules of docs/operating.md, from what the check has found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from common.findings import GpuFacts, ImagesFacts, ManifestFacts, ModelFacts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.findings import Finding

GPU_CHUNK_IMAGES = 50_000
CPU_CHUNK_IMAGES = 10_000
"""Number of images in a chunk, with and without a GPU. See "Chunks" in docs/operating.md."""

MAX_CHUNKS = 100_000
"""Largest number of chunks, a limit of Kubernetes for an Indexed Job."""

CORE_IMAGES_PER_SECOND = 400
"""Number of images that one core fetches and decodes a second."""

USUAL_IMAGE_BYTES = 230_000
"""Size in bytes of the images with which that was measured. Larger images take proportionally longer."""

USUAL_GPU_IMAGES_PER_SECOND = 2_000
"""Number of images a second of a GPU that could not be measured: that of a T4 or L4, an estimate."""

USUAL_BATCH = 320
"""Number of images in a batch of a device that was not at hand: the largest default, that of an H100."""

CPU_WORKER_CORES = 8
"""Number of cores of a worker without a GPU."""

MAX_CORES = 64
"""Largest number of cores that is asked for: few nodes have more for one GPU."""

INFLIGHT_BYTES_PER_CORE = 32 << 20
BATCHES = 4
GPU_HOST_BYTES = 3 << 30
"""Memory in bytes of PyTorch with CUDA on the host side, an estimate."""
CPU_MODEL_BYTES = 1 << 30
"""Memory in bytes of PyTorch and a model on a CPU."""
ROW_BYTES = 2048
"""Memory in bytes of a row, beside its URL."""
LARGE_IMAGE_BYTES_PER_PIXEL = 15
"""Memory in bytes of a pixel of the largest image: that of WebP. A PNG of 16 bits takes 20."""


class Here(NamedTuple):
    """The run on the machine that was checked."""

    chunks: int
    images_per_second: float
    hours: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The figures of a run in a cluster."""

    rows: int
    chunks: int
    images_per_chunk: int
    on_gpu: bool
    images_per_second: float
    """Of one worker: those of the device, or of the cores that decode if that is less."""
    is_measured: bool
    """False where the rate is that of a usual GPU, because the check ran without one."""
    cores: int
    memory_gib: int
    parallelism: int | None
    """Number of workers for which the cluster has GPUs; None where it was not looked at."""
    hours: float
    """Duration with these workers, or with one where their number is not known."""
    result_bytes: int
    here: Here | None
    """The run on this machine; None where the model could not be measured."""

    @property
    def assignments(self) -> list[str]:
        """Return the chart's values, as in --set."""
        values = [f"chunks.count={self.chunks}"]
        if self.parallelism is not None:
            values.append(f"worker.parallelism={self.parallelism}")
        if not self.on_gpu:
            values.append("gpu.count=0")
        return [
            *values,
            f"worker.resources.requests.cpu={self.cores}",
            f"worker.resources.requests.memory={self.memory_gib}Gi",
            f"worker.resources.limits.memory={self.memory_gib}Gi",
        ]

    def as_json(self) -> dict[str, object]:
        here = None if self.here is None else self.here._asdict()
        return asdict(self) | {"here": here, "set": self.assignments}


def make_plan(findings: Iterable[Finding], *, wants_gpu: bool, max_image_pixels: int) -> Plan | None:
    """Return the figures, None where the manifest's rows are not known.

    `wants_gpu` tells whether the workers will have a GPU. The check's own device may be another one.
    """
    facts = [finding.facts for finding in findings]
    manifest = next((each for each in facts if isinstance(each, ManifestFacts)), None)
    model = next((each for each in facts if isinstance(each, ModelFacts)), None)
    images = next((each for each in facts if isinstance(each, ImagesFacts)), None)
    gpus = next((each for each in facts if isinstance(each, GpuFacts)), None)
    if manifest is None or not manifest.rows:
        return None
    is_measured = model is not None and model.is_on_gpu == wants_gpu
    device_rate = model.images_per_second if model is not None and is_measured else float(USUAL_GPU_IMAGES_PER_SECOND)
    per_core = CORE_IMAGES_PER_SECOND / max(1.0, (images.mean_bytes if images else 0) / USUAL_IMAGE_BYTES)
    cores = min(MAX_CORES, math.ceil(device_rate / per_core) + 1) if wants_gpu else CPU_WORKER_CORES
    rate = min(device_rate, per_core * cores)
    chunks = _chunk_count(manifest.rows, on_gpu=wants_gpu)
    images_per_chunk = math.ceil(manifest.rows / chunks)
    available = None if gpus is None else (gpus.allocatable if gpus.free is None else gpus.free)
    parallelism = min(available, chunks) if wants_gpu and available else None
    return Plan(
        rows=manifest.rows,
        chunks=chunks,
        images_per_chunk=images_per_chunk,
        on_gpu=wants_gpu,
        images_per_second=rate,
        is_measured=is_measured,
        cores=cores,
        memory_gib=_memory_gib(
            cores=cores,
            on_gpu=wants_gpu,
            model=model,
            batch=model.batch_size if wants_gpu and model is not None and is_measured else USUAL_BATCH,
            rows=images_per_chunk,
            url_bytes=manifest.mean_url_bytes,
            max_image_pixels=max_image_pixels,
        ),
        parallelism=parallelism,
        hours=manifest.rows / rate / 3600 / (parallelism or 1),
        result_bytes=round(manifest.rows * (4 * (model.dimensions if model else 512) + manifest.mean_url_bytes)),
        here=None if model is None else _here(manifest.rows, model),
    )


def _chunk_count(rows: int, *, on_gpu: bool) -> int:
    return min(MAX_CHUNKS, math.ceil(rows / (GPU_CHUNK_IMAGES if on_gpu else CPU_CHUNK_IMAGES)))


def _here(rows: int, model: ModelFacts) -> Here:
    rate = model.images_per_second
    return Here(_chunk_count(rows, on_gpu=model.is_on_gpu), rate, rows / rate / 3600)


def _memory_gib(
    *,
    cores: int,
    on_gpu: bool,
    model: ModelFacts | None,
    batch: int,
    rows: int,
    url_bytes: float,
    max_image_pixels: int,
) -> int:
    """Return the memory of a worker in GiB, as docs/operating.md adds it up under "Memory"."""
    size = model.image_size if model else 224
    total = (
        INFLIGHT_BYTES_PER_CORE * cores
        + BATCHES * batch * size * size * 3
        + (GPU_HOST_BYTES if on_gpu else CPU_MODEL_BYTES)
        + rows * (ROW_BYTES + url_bytes)
        + LARGE_IMAGE_BYTES_PER_PIXEL * max_image_pixels
    )
    return math.ceil(total / (1 << 30))
