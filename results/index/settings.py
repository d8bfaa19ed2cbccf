"""The settings of the index program. Each is read from the environment once; see common.settings for how names map."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.settings import S3Settings, TlsSettings


class IndexSettings(S3Settings, TlsSettings):
    run_uri: str = Field(min_length=1)
    """The place of the run: `s3://bucket/prefix` or a folder. The run must be finished."""

    index_m: int = Field(default=16, ge=4, le=200)
    """Number of neighbours that each vector is joined to (M). A larger number makes the index larger, 8 bytes a vector
    for each, and slower to build, and finds more of the nearest rows. 16: the index is 7 % larger than the vectors, and
    docs/search-index.md shows what 8 and 32 cost and find."""

    index_ef_construction: int = Field(default=200, ge=10, le=4000)
    """Number of candidates among which a vector's neighbours are chosen. A larger number makes the build slower, about
    in proportion, and the index better at the same size."""

    index_threads: int = Field(default=0, ge=0, le=1024)
    """Number of threads that build the index. 0: one for each core that this program may use."""

    index_min_recall: float = Field(default=0.9, ge=0, le=1)
    """The smallest recall@10 with which an index is published: the share of the 10 nearest rows, by exact search, that
    the index finds. 0.9: with the defaults, an index of vectors that resemble CLIP's finds 0.98 and more, so a
    smaller share means that something is wrong, or that these vectors need a better index."""

    index_recall_queries: int = Field(default=200, ge=1, le=10_000)
    """Number of sampled rows whose neighbours are compared with those of exact search. With 200, the measured recall is
    within 0.02 of the whole index's. All are compared in one pass over the vectors."""

    index_folder: str = ""
    """Folder for the index until it is published. It needs room for the whole index, 2.2 kB a row. Empty: the run's own
    folder, or TMPDIR where the run is in a bucket."""

    progress_seconds: float = Field(default=5, gt=0)
    """Time in seconds between two lines of progress in the log."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged. Progress has the level info."""
