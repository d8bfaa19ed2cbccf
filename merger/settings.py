"""The merger's settings. Each is read from the environment once; see common.settings for how names map."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.settings import RunSettings


class MergerSettings(RunSettings):
    on_missing_chunks: Literal["refuse", "partial"] = "refuse"
    """What to do where chunks are missing. `refuse` ends with exit code 65 and names them. `partial` merges the chunks
    that exist (at least one), names the missing ones in the result and in summary.json, and keeps the chunk files, so
    that a later merge can complete the result."""

    keep_chunks: bool = False
    """Whether to keep the chunk files once the result is verified. Off by default, because the result holds the same
    rows, and two copies of 9 million vectors take 37 GB."""

    verify: Literal["sample", "full"] = "sample"
    """How the result is compared with the chunks before they are deleted. `sample` reads the first and last row of each
    chunk and of each copied part, and `verify_rows` random vectors, with range requests. `full` reads the whole result
    and compares it with the digest of each chunk; its traffic is as large as the result. Both check all headers, URLs,
    ids and failures against their digests. `sample` finds vectors that changed in the store after their upload only
    where all vectors of the chunk pass through the merger (in a bucket: chunks below 5 MiB), or where a compared vector
    no longer has norm 1."""

    verify_rows: int = Field(default=256, ge=0, le=1_000_000)
    """Number of random vectors of the whole run that `sample` compares, beside first and last rows. It also compares an
    eighth as many URLs and ids. With 256, a fault in one of 50 vectors is missed once in 176 runs."""

    assembly: Literal["auto", "server-side", "streaming"] = "auto"
    """How the vectors get into the result. `server-side` has the store copy them (S3's UploadPartCopy, in a folder
    copy_file_range). `streaming` passes them through this process, in bounded memory. `auto` is server-side, then
    server-side in parts of equal size where the store demands them, and then streaming where the store cannot copy or
    copies wrongly."""

    merge_concurrency: int = Field(default=16, ge=1, le=32)
    """Number of copies in flight at the same time, and of reads as well. A copy costs the merger almost no
    CPU; 16 copies keep S3 busy. The memory of the merger does not depend on it."""

    gpu_hour_price: float = Field(default=0, ge=0, allow_inf_nan=False)
    """Price of a GPU for an hour, in any currency. With it, summary.json and the report of the run say what the GPUs
    have cost, and what a million images cost. 0: unknown."""

    progress_seconds: float = Field(default=5, gt=0)
    """Time in seconds between two lines of progress in the log."""
