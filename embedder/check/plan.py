"""What to ask for: chunks, cores and memory, by the rules of docs/operating.md, from what the check has found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from common.findings import GpuFacts, ImagesFacts, ManifestFacts, ModelFacts, RunFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.findings import Finding

GPU_CHUNK_IMAGES = 50_000
CPU_CHUNK_IMAGES = 10_000
"""Number of images in a chunk, with and without a GPU. See "Chunks" in docs/operating.md."""

MAX_CHUNKS = 100_000
"""Largest number of chunks, a limit of Kubernetes for an Indexed Job."""

POD_START_SECONDS = 15.0
"""Time in seconds of a pod before its first image, on a node that has the program: 10 to 20 s."""

HERE_START_SECONDS = 10.0
"""Time in seconds before the first image of a chunk on this machine, without scheduling; an estimate."""

MUCH = 2
"""Factor from which on another number of chunks is worth a sentence."""

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
    hours: float | None
    """None where nothing is left to compute."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The figures of a run in a cluster."""

    rows: int
    is_exact: bool
    """False for an estimate of the rows from a sample."""
    chunks: int
    """Number that the run in the store has, else the one that was asked for, else the suggested one."""
    chunks_by: str
    """Who has decided the number of chunks: `check`, `user` or `store`."""
    suggested_chunks: int
    """Number of chunks that fits the rows."""
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
    hours: float | None
    """Duration with these workers, or with one where their number is not known. None where nothing is left to
    compute."""
    result_bytes: int
    is_held_back: bool = False
    """Whether a site refuses requests beyond a pace of its own, so that the site decides how long the run takes."""
    here: Here | None
    """The run on this machine; None where the model could not be measured."""

    @property
    def assignments(self) -> list[str]:
        """Return the chart's values, as in --set."""
        values = [f"chunks.count={self.chunks}"]
        if self.parallelism is not None and not self.is_held_back:
            values.append(f"worker.parallelism={self.parallelism}")
        if not self.on_gpu:
            values.append("gpu.count=0")
        return [
            *values,
            f"worker.resources.requests.cpu={self.cores}",
            f"worker.resources.requests.memory={self.memory_gib}Gi",
            f"worker.resources.limits.memory={self.memory_gib}Gi",
        ]

    @property
    def is_suggestion_much_different(self) -> bool:
        low, high = sorted((self.chunks, self.suggested_chunks))
        return high >= MUCH * low

    def as_json(self) -> dict[str, object]:
        here = None if self.here is None else _rounded(self.here._asdict())
        return _rounded(asdict(self)) | {"here": here, "set": self.assignments}


def make_plan(
    findings: Sequence[Finding], *, wants_gpu: bool, max_image_pixels: int, chunk_count: int | None = None
) -> Plan | None:
    """Return the figures, None where the manifest's rows are not known.

    `wants_gpu` tells whether the workers will have a GPU. The check's own device may be another one. `chunk_count` is
    the number of chunks that the user asks for, None if there is none.
    """
    facts = [finding.facts for finding in findings]
    run = next((each for each in facts if isinstance(each, RunFacts)), None)
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
    suggested = _chunk_count(manifest, on_gpu=wants_gpu)
    kept = run.chunk_count if run is not None and run.is_there else chunk_count
    chunks = kept or suggested
    left = _chunks_left(chunks, run)
    images_per_chunk = math.ceil(manifest.rows / chunks)
    available = None if gpus is None else (gpus.allocatable if gpus.free is None else gpus.free)
    parallelism = min(available, chunks) if wants_gpu and available else None
    pod_seconds = POD_START_SECONDS + images_per_chunk / rate
    return Plan(
        rows=manifest.rows,
        is_exact=manifest.is_exact,
        chunks=chunks,
        chunks_by="check" if not kept else "store" if run is not None and run.is_there else "user",
        suggested_chunks=suggested,
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
        hours=math.ceil(left / (parallelism or 1)) * pod_seconds / 3600 if left else None,
        result_bytes=round(manifest.rows * (4 * (model.dimensions if model else 512) + manifest.mean_url_bytes)),
        is_held_back=images is not None and images.is_held_back,
        here=None if model is None else _here(manifest, model, kept=kept, run=run),
    )


def _chunk_count(manifest: ManifestFacts, *, on_gpu: bool) -> int:
    chunks = math.ceil(manifest.rows / (GPU_CHUNK_IMAGES if on_gpu else CPU_CHUNK_IMAGES))
    return min(MAX_CHUNKS, chunks, manifest.shards or MAX_CHUNKS)


def _chunks_left(chunks: int, run: RunFacts | None) -> int:
    if run is None:
        return chunks
    return 0 if run.is_finished else max(0, chunks - run.in_store)


def _here(manifest: ManifestFacts, model: ModelFacts, *, kept: int | None, run: RunFacts | None) -> Here:
    rate = model.images_per_second
    chunks = kept or _chunk_count(manifest, on_gpu=model.is_on_gpu)
    left = _chunks_left(chunks, run)
    hours = left * (HERE_START_SECONDS + manifest.rows / chunks / rate) / 3600
    return Here(chunks, rate, hours if left else None)


def _rounded(figures: dict[str, object]) -> dict[str, object]:
    """Return the figures without digits that mean nothing."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}


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
