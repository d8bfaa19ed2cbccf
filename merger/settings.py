"""The merger's settings. Each is read from the environment once; see common.settings for how names map."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.settings import RunSettings


class MergerSettings(RunSettings):
    on_missing_chunks: Literal["refuse", "partial"] = "refuse"
    """What to do where chunks are missing: `refuse` ends with exit code 65 and names them; `partial` merges those that
    are there, says in the result and in summary.json which are not, and keeps the chunk files, so that a later merge
    can complete the result. At least one chunk must be there."""

    keep_chunks: bool = False
    """Keep the chunk files once the result is verified. Off: the result holds the same rows, and two copies of 9
    million vectors are 37 GB."""

    verify: Literal["sample", "full"] = "sample"
    """How the result is compared with the chunks before they are deleted: `sample` reads the first and last row of
    every chunk and of every part, and `verify_rows` random ones, by range requests; `full` reads the whole result and
    compares each chunk's digest, which is as much traffic as the result is large. Both check all headers, URLs, ids and
    failures against their digests. Vectors that changed in the store after their upload are seen by `sample` only
    where all of a chunk's pass through here (in a bucket those below 5 MiB), or where a row compared is not of norm
    1."""

    verify_rows: int = Field(default=256, ge=0, le=1_000_000)
    """Random vectors of the whole run that `sample` compares beside the first and last ones, and an eighth as many
    URLs and ids: with 256, a fault that touches one vector in 50 is missed once in 176 runs."""

    assembly: Literal["auto", "server-side", "streaming"] = "auto"
    """How the vectors get into the result: `server-side` has the store copy them (S3's UploadPartCopy, in a folder
    copy_file_range); `streaming` passes them through this process, in bounded memory; `auto` is server-side, and
    streaming where the store cannot, or does it wrongly."""

    merge_concurrency: int = Field(default=16, ge=1, le=32)
    """Copies in flight, and as many reads. Copies wait for the store, not for this machine, and 16 keep S3 busy; the
    memory does not depend on it."""

    progress_seconds: float = Field(default=5, gt=0)
    """Between two lines of progress in the log."""
