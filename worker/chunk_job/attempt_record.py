"""What this worker says about itself in its chunk file and checkpoints: when it computed, and what it waited for."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from common.format.chunk_times import Attempt, ChunkTimes, SamplePicture

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from worker.collector import Collector
    from worker.encode.encoder import Encoder
    from worker.stage_times import Stage


class AttemptRecord:
    """The attempt at chunk `index` that begins now. `attempt` is its number from 1, None if nobody has told it."""

    def __init__(self, index: int, *, attempt: int | None) -> None:
        self._index, self._attempt = index, attempt
        self._began = time.monotonic()
        self._started = datetime.now(UTC)
        self._embedded_before = 0
        self._waited: dict[str, float] = {}

    def note_start(self, collector: Collector) -> None:
        """Note that this attempt embeds what is not embedded now."""
        self._embedded_before = collector.embedded

    def note_waits(self, waits: Mapping[Stage, float]) -> None:
        """Add for how many seconds the encoder waited, by the stage that it waited for."""
        for stage, seconds in waits.items():
            self._waited[stage] = self._waited.get(stage, 0.0) + seconds

    def so_far(self, *, embedded: int, encoder: Encoder) -> Attempt:
        """Return the attempt up to now. `embedded` is the number of the chunk's embedded rows."""
        seconds = time.monotonic() - self._began
        return Attempt(
            started_at=_text(self._started.timestamp()),
            ended_at=_text(self._started.timestamp() + seconds),
            images=max(0, embedded - self._embedded_before),
            gpus=encoder.gpu_count,
            seconds=round(seconds, 3),
        )

    def times(
        self,
        collector: Collector,
        encoder: Encoder,
        *,
        encoded_seconds: float,
        bytes_fetched: int,
        earlier: Iterable[Attempt],
    ) -> ChunkTimes:
        """Return the times of the chunk, all of whose rows are settled."""
        times = ChunkTimes(
            **self.so_far(embedded=collector.embedded, encoder=encoder).model_dump(),
            index=self._index,
            attempt=self._attempt,
            device=encoder.device_name,
            encoded_seconds=round(encoded_seconds, 3),
            waited_seconds={stage: round(seconds, 3) for stage, seconds in self._waited.items()},
            bytes_fetched=bytes_fetched,
            rows=collector.requested,
            failed=collector.failed,
        )
        return times.after(earlier)


def sample_of(collector: Collector, jpegs: Mapping[int, bytes]) -> list[SamplePicture]:
    """Return the pictures of embedded rows, by the rows' positions, with the rows' URLs."""
    return [SamplePicture(collector.url_of(position), jpeg) for position, jpeg in sorted(jpegs.items())]


def _text(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds")
