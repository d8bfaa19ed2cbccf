"""Made-up runs, for reports of any size."""

from __future__ import annotations

import heapq
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from common.format.chunk_times import Attempt, ChunkTimes, briefly, computing_seconds
from common.run.summary import Summary, Verification
from results.report.failure_digest import FailureCounter, FailureDigest
from results.report.sample_picture import SamplePicture
from tests.merger.runs import provenance

if TYPE_CHECKING:
    from collections.abc import Sequence

BEGIN = datetime(2026, 11, 28, 9, 12, 5, tzinfo=UTC)
ROWS = 10_000


def text(seconds: float) -> str:
    return (BEGIN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def chunk_times(count: int, *, workers: int, topped_up: Sequence[int] = (), gpus: int = 1) -> list[ChunkTimes]:
    """Return the times of chunks that so many workers have computed. Some took two attempts."""
    generator = np.random.default_rng(7)
    free = sorted(float(each) for each in generator.uniform(0, 40, workers))
    found = []
    for index, (drawn, busy) in enumerate(
        zip(generator.gamma(20, 1.5, count), generator.uniform(0.2, 0.95, count), strict=True)
    ):
        start = free[0]
        seconds = float(drawn) * (4 if index % 97 == 5 else 1)
        earlier: list[Attempt] = []
        if index % 61 == 7:
            worked = 0.4 * seconds
            began, start = start, start + worked + 20
            ended = text(began + worked)
            earlier.append(Attempt(started_at=text(began), ended_at=ended, images=3900, gpus=gpus, seconds=worked))
        heapq.heapreplace(free, start + seconds)
        waits = {"start": 0.08, "fetch": 0.7, "decode": 0.22} if index % 5 else {"decode": 0.8, "start": 0.2}
        times = ChunkTimes(
            index=index,
            started_at=text(start),
            ended_at=text(start + seconds),
            seconds=seconds,
            images=ROWS - len(earlier) * 3900 - 37,
            rows=ROWS,
            failed=37,
            attempt=1 + len(earlier),
            device="cuda:0 (NVIDIA L4)",
            gpus=gpus,
            encoded_seconds=float(busy) * seconds,
            waited_seconds={name: share * (1 - float(busy)) * seconds for name, share in waits.items()},
            earlier=tuple(earlier),
        )
        found.append(times)
    for position, index in enumerate(topped_up):
        begun = 3 * 86_400 + 15 * position
        before = Attempt(**found[index].model_dump(include=set(Attempt.model_fields)))
        found[index] = found[index].model_copy(
            update={
                "started_at": text(begun),
                "ended_at": text(begun + 25),
                "images": 30,
                "earlier": (*found[index].earlier, before),
            }
        )
    return found


def made_up_summary(times: Sequence[ChunkTimes], chunk_count: int, **other: Any) -> Summary:  # noqa: ANN401 - any field
    """Return the summary of a run with these chunks. Each has 37 failed rows of 10,000."""
    reasons = {"not_found": 29 * chunk_count, "timeout": 5 * chunk_count, "not_an_image": 3 * chunk_count}
    fields: dict[str, Any] = {
        "fingerprint": "5b1c" * 16,
        "rows_requested": ROWS * chunk_count,
        "rows_embedded": (ROWS - 37) * chunk_count,
        "rows_failed": 37 * chunk_count,
        "chunks_missing": "",
        "result_bytes": 2148 * ROWS * chunk_count,
        "failures_by_reason": reasons,
        "dimensions": 512,
        "chunk_count": chunk_count,
        "chunks_merged": f"0-{chunk_count - 1}",
        "provenance": provenance(chunk_count, model="openai/clip-vit-base-patch32"),
        "embedded_by": ["0.1.0"],
        "merged_by": "0.1.0",
        "created_at": "2026-11-28T11:00:00+00:00",
        "assembly": "server-side",
        "verification": Verification(mode="sample", rows_compared=20_000),
        "bytes_copied_by_store": 2048 * ROWS * chunk_count,
        "bytes_uploaded": 50_000_000,
        "bytes_read": 60_000_000,
        "seconds": 312.5,
        "chunk_times": list(times),
        "computing_seconds": computing_seconds(brief for each in times for brief in briefly(each.attempts)),
        "gpu_hours": sum(each.all_gpu_seconds for each in times) / 3600,
    }
    return Summary(**fields | other)


def made_up_failures(count: int, *, chunk_count: int, sites: int = 12) -> FailureDigest:
    counter = FailureCounter()
    for number in range(count):
        reason = "timeout" if number % 37 < 5 else "not_an_image" if number % 37 < 8 else "not_found"
        url = f"https://farm{number * number % sites}.staticflickr.example/{number % 7}/{number:09}_{number:x}_o.jpg"
        chunk = number * chunk_count // count
        counter.add((str(chunk), str(number), "", url, reason, "404" if reason == "not_found" else ""))
    return counter.digest()


def made_up_pictures(chunk_count: int, *, each: int = 1, side: int = 112) -> list[SamplePicture]:
    generator = np.random.default_rng(3)
    found = []
    for number in range(chunk_count * each):
        small = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        file = BytesIO()
        image.save(file, "JPEG", quality=80)
        url = f"https://farm{number % 9}.staticflickr.example/5/{number:09}_6f2a{number:x}_o.jpg"
        found.append(SamplePicture(number // each, url, file.getvalue()))
    return found
