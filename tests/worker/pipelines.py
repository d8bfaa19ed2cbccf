"""Runs the stages of a chunk in this process, with real decoders, and an encoder that sees the colour of an image."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from common.format.provenance import Provenance
from common.settings import read_settings
from tests.worker.decoders.pool import SIZE, decoder_settings
from worker.collector import Collector
from worker.decoders.decoders import Decoders
from worker.encode.batches import Batches
from worker.fetch.relayed_proxies import RelayedProxies
from worker.manifest.manifest import ManifestChunk
from worker.metrics import serve_chunk_metrics
from worker.pipeline import Pipeline
from worker.rows import Row
from worker.settings import WorkerSettings
from worker.stage_times import StageTimes
from worker.vector_file import VectorFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from worker.encode.encoder import Encoder
    from worker.rows import HeldImages
    from worker.stage_times import Snapshot

PROVENANCE = Provenance(
    manifest="",
    chunk_count=1,
    model="",
    model_revision="",
    weights="",
    dtype="",
    preprocessing="",
    rotation=True,
    sources="",
)

SECONDS = 90
"""Longest time of a pipeline, in seconds: far more than any of these takes."""


class ColourEncoder:
    """Stands in for a model. The vector of an image is its mean colour (red, green, blue, 255), of norm 1."""

    dimensions = 4

    def __init__(self) -> None:
        self.batches: list[int] = []
        """The number of images of each batch."""

    def start(self, pieces: Sequence[Tensor]) -> Callable[[], NDArray[np.float32]]:
        squares = torch.cat(list(pieces))
        self.batches.append(len(squares))
        colours = squares.float().mean(dim=(1, 2))
        vectors = torch.nn.functional.pad(colours, (0, 1), value=255.0)
        return lambda: torch.nn.functional.normalize(vectors, dim=1).numpy()


class Outcome(NamedTuple):
    colours: list[tuple[int, int, int] | None]
    """The mean colour of each image, as the encoder saw it, None for a failed one, in the order of the list."""
    failures: dict[str, str]
    """Reason and detail of each failure, by URL."""
    batches: list[int]
    """The number of images of each batch."""
    times: Snapshot

    @property
    def reasons(self) -> dict[str, str]:
        return {url: failure.partition(":")[0] for url, failure in self.failures.items()}


def run_pipeline(
    images: Sequence[str | Row],
    *,
    decoders: int = 2,
    batch_size: int = 4,
    decode_cpu_seconds: float = 30,
    encoder: ColourEncoder | None = None,
    folder: Path | None = None,
    held: HeldImages | None = None,
    metrics_port: int = 0,
    while_running: Callable[[Pipeline], object] = lambda _: None,
    **settings: Any,  # noqa: ANN401 - the settings' own types
) -> Outcome:
    """Embed the images of a list. Raises what ends a chunk.

    `held` gives the images that the manifest holds. `settings` are those of a worker, by their Python names.
    `while_running` is called with the pipeline once it runs. The metrics are served at `metrics_port`, if it is not 0.
    """
    worker = read_settings(
        WorkerSettings,
        run_uri="unused",
        manifest_uri="unused",
        chunk_count=1,
        JOB_COMPLETION_INDEX=0,
        **{"allow_private_hosts": True, "max_failure_ratio": 1} | settings,
    )
    rows = [image if isinstance(image, Row) else Row(number, image) for number, image in enumerate(images)]
    encoder = encoder or ColourEncoder()
    times = StageTimes(decode_threads=decoders)
    with ExitStack() as closing_all:
        pool = closing_all.enter_context(
            closing(
                Decoders(
                    decoders,
                    decoder_settings(
                        connect_seconds=worker.http.connect_timeout_seconds,
                        read_seconds=worker.http.read_timeout_seconds,
                        request_seconds=worker.fetch.fetch_timeout_seconds,
                        max_bytes=worker.fetch.max_image_bytes,
                        decode_cpu_seconds=decode_cpu_seconds,
                    ),
                    times=times,
                )
            )
        )
        proxies = closing_all.enter_context(closing(RelayedProxies(connect_timeout_seconds=5)))
        vectors = closing_all.enter_context(VectorFile())
        collector = Collector(ManifestChunk(rows, []), vectors)
        batches = Batches(batch_size=batch_size, image_size=SIZE, descriptor=pool.squares, spare_slots=pool.spare_slots)
        pipeline = Pipeline(
            collector,
            rows,
            sources=("url",) if held is None else ("bytes", "url"),
            folder=folder,
            held=held,
            proxies=proxies,
            decoders=pool,
            batches=_done(batches),
            encoder=_done(cast("Encoder", encoder)),
            fetch=worker.fetch,
            http=worker.http,
            inflight_bytes=worker.decode.inflight_bytes,
            encode_timeout_seconds=worker.encode.encode_timeout_seconds,
            max_failure_ratio=worker.chunk.max_failure_ratio,
            times=times,
        )
        pipeline.start()
        closing_all.callback(pipeline.stop)
        if metrics_port:
            limit = worker.chunk.max_failure_ratio
            serve_chunk_metrics(metrics_port, pipeline, collector, chunk_index=0, max_failure_ratio=limit)
        while_running(pipeline)
        if not pipeline.wait(SECONDS):
            raise TimeoutError(f"{collector.settled} of {len(rows)} images are settled after {SECONDS} s")
        return _outcome(collector, encoder, times)


def _done(value: Any) -> Future[Any]:  # noqa: ANN401 - of any part
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def _outcome(collector: Collector, encoder: ColourEncoder, times: StageTimes) -> Outcome:
    chunk = collector.chunk(index=0, dimensions=encoder.dimensions, has_ids=False, provenance=PROVENANCE)
    failed = {failure.row for failure in chunk.failures}
    vectors = iter(chunk.embeddings[:])
    colours: list[tuple[int, int, int] | None] = []
    for row in range(collector.requested):
        if row in failed:
            colours.append(None)
        else:
            vector = next(vectors)
            red, green, blue, _ = np.rint(vector / vector[3] * 255).astype(int).tolist()
            colours.append((red, green, blue))
    return Outcome(
        colours,
        {failure.url: f"{failure.reason}: {failure.detail}" for failure in chunk.failures},
        encoder.batches,
        times.snapshot(),
    )
