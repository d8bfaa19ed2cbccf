"""The worker's settings, one section for each of its parts. See common.settings for how names map."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from common.indexes import parse_indexes
from common.settings import RunSettings, Section

INFLIGHT_BYTES_PER_DECODER = 32 << 20

SPARE_DECODERS = 1
"""At work while another waits for its next image and for room for its pixels. Measured on two cores: 2 to 9 % more
images a second, at the same CPU for each."""

SOURCES = ("mirror", "thumbnail", "original", "url")


class ChunkSettings(RunSettings):
    """Which chunk is computed, and when it counts as failed."""

    job_completion_index: int | None = Field(default=None, ge=0, validation_alias="JOB_COMPLETION_INDEX")
    """Which pod of the Indexed Job this is, from 0. Kubernetes sets it. Without EMBEDDER_CHUNK_INDEXES it is the
    index of the chunk."""

    chunk_indexes: str = ""
    """The chunks of a rerun, as in `3,7-9`: pod i computes the i-th of them. Empty: pod i computes chunk i."""

    max_failure_ratio: float = Field(default=0.2, ge=0, le=1)
    """Share of a chunk's rows that may fail. Above it the chunk ends with exit code 65 and uploads nothing: so many
    failures mean a wrong list or a source that is down. 2 to 5 % of Open Images' photos are gone."""

    progress_seconds: float = Field(default=10, gt=0)
    """Between two lines of progress in the log."""

    metrics_port: int = Field(default=0, ge=0, le=65_535)
    """Port at which Prometheus metrics are served: images, failures by reason, seconds each stage worked and waited.
    0: none."""

    @field_validator("chunk_indexes")
    @classmethod
    def _are_indexes(cls, text: str) -> str:
        parse_indexes(text)
        return text

    @model_validator(mode="after")
    def _index_is_within(self) -> Self:
        if self.job_completion_index is None:
            raise ValueError("JOB_COMPLETION_INDEX is not set; it is the index of the chunk, from 0")
        chunks = parse_indexes(self.chunk_indexes) or range(self.chunk_count)
        if self.job_completion_index >= len(chunks):
            raise ValueError(
                f"JOB_COMPLETION_INDEX is {self.job_completion_index}, but there are {len(chunks)} chunks "
                f"({'EMBEDDER_CHUNK_INDEXES' if self.chunk_indexes else 'EMBEDDER_CHUNK_COUNT'}), the first is 0"
            )
        if chunks[-1] >= self.chunk_count:
            raise ValueError(
                f"EMBEDDER_CHUNK_INDEXES names chunk {chunks[-1]}, but the last of EMBEDDER_CHUNK_COUNT "
                f"{self.chunk_count} is {self.chunk_count - 1}"
            )
        return self

    @property
    def chunk_index(self) -> int:
        """Return the chunk that this pod computes."""
        chunks = parse_indexes(self.chunk_indexes) or range(self.chunk_count)
        return chunks[self.job_completion_index or 0]


class ManifestSettings(Section):
    """The list of images, and which of its columns mean what."""

    manifest_uri: str = Field(min_length=1)
    """The list of images: a path, or an http(s):// or s3:// URL, of a CSV, TSV, Parquet, JSONL, TXT or JSON file."""

    ids_uri: str = ""
    """A JSON array of ids beside a JSON array of URLs (`image_ids.json` beside `image_urls.json`)."""

    manifest_format: Literal["auto", "csv", "tsv", "parquet", "jsonl", "txt", "json"] = "auto"
    """The manifest's format; `auto` goes by the file name's ending."""

    url_column: str = ""
    """The column with the URL. Empty: `OriginalURL`, `url`, `image_url` or `URL`-like names, whichever is there."""

    id_column: str = ""
    """The column with the id. Empty: `ImageID`, `image_id` or `id`, whichever is there."""

    max_url_bytes: int = Field(default=2048, ge=16, le=65_536)
    """Bytes of the longest URL that is taken; a longer one is a ledger row, since one absurd URL would widen every
    row of the result. 2,048 is what browsers and proxies agree on."""

    sources: str = "auto"
    """Where an image is looked for, in order: of `mirror`, `thumbnail`, `original` and `url`, comma-separated. `auto`:
    `mirror,thumbnail,original` for Open Images' own files, `url` for other manifests."""

    rotate: bool = True
    """Apply the manifest's rotation (Open Images: degrees counter-clockwise) before the preprocessing."""

    @field_validator("sources")
    @classmethod
    def _are_sources(cls, text: str) -> str:
        names = [name.strip() for name in text.split(",")]
        wrong = [name for name in names if name not in SOURCES]
        if text != "auto" and wrong:
            raise ValueError(f"{wrong[0]!r} is no source; choose from {', '.join(SOURCES)}, or auto")
        if len(set(names)) < len(names):
            raise ValueError("a source is named twice")
        return ",".join(names)


class HttpSettings(Section):
    """How HTTP servers are asked, for the manifest as for images."""

    connect_timeout_seconds: float = Field(default=10, gt=0)
    """For a connection to be made, name resolution and TLS included."""

    read_timeout_seconds: float = Field(default=20, gt=0)
    """Between two pieces of an answer."""

    retry_after_limit_seconds: float = Field(default=60, ge=0)
    """The longest Retry-After that is waited for; a longer one counts as this."""

    user_agent: str = "embedder/{version} (batch image embedding job)"
    """What the sources are told; `{version}` is the program's. Say here how to reach you."""


class FetchSettings(Section):
    """From a row to an image's bytes."""

    mirror_url: str = "https://open-images-dataset.s3.amazonaws.com"
    """Where the mirror's `<subset>/<id>.jpg` lie: the public bucket by default, or a copy of it (http, https or s3)."""

    fetch_concurrency: int = Field(default=64, ge=1, le=4096)
    """Requests in flight. Bounded by politeness to the source, not by this machine: 64 keep one GPU fed at 20 ms
    a GET."""

    fetch_concurrency_per_host: int = Field(default=48, ge=1, le=4096)
    """Requests in flight to one host, below `fetch_concurrency` so that one slow host leaves room for the others."""

    fetch_timeout_seconds: float = Field(default=60, gt=0)
    """For one whole request, so that a host that drips bytes is given up."""

    fetch_attempts: int = Field(default=6, ge=1, le=20)
    """Requests for one image from one source, where what went wrong may pass (429, 5xx, resets, timeouts)."""

    source_patience_seconds: float = Field(default=90, gt=0)
    """How long a host that fails is tried for before its images fail without being asked for. When nobody has answered
    for so long, the chunk ends with exit code 75 and no image is blamed. A store that restarts takes a minute."""

    max_image_bytes: int = Field(default=64 << 20, ge=1024)
    """Bytes of the largest image taken. Open Images' largest original has about 30 MB."""

    allow_private_hosts: bool = False
    """Fetch from private, loopback and link-local addresses and from any port too. A list from the internet must not
    reach into the cluster, so this is off; the operator's own manifest, mirror and S3 endpoint are always allowed."""


class DecodeSettings(Section):
    """From bytes to a square."""

    decode_threads: int = Field(default=0, ge=0, le=256)
    """Decoders, which decode and resize; they scale with cores (one does about 500 images a second). 0: one for each
    core this process may use. One more is started, which works while another is handed its next image."""

    decode_timeout_seconds: float = Field(default=30, gt=0)
    """CPU seconds for decoding and resizing one image; the largest take five. By the clock twenty times as much."""

    max_image_pixels: int = Field(default=178_956_970, ge=1)
    """Pixels of the largest image decoded, checked in the header. The default is where Pillow too sees a
    decompression bomb: 512 MiB of RGB."""

    max_inflight_bytes: int = Field(default=0, ge=0)
    """Bytes of images fetched and not yet decoded, all together: what bounds the memory whatever the images' sizes. 0:
    32 MiB for each decoder but the spare one, which is a quarter of a second of its work on photos of 200 KB."""

    @property
    def decoder_count(self) -> int:
        """Return how many decoders there are to be."""
        return self._cores_to_decode + SPARE_DECODERS

    @property
    def inflight_bytes(self) -> int:
        return self.max_inflight_bytes or INFLIGHT_BYTES_PER_DECODER * self._cores_to_decode

    @property
    def _cores_to_decode(self) -> int:
        return self.decode_threads or len(os.sched_getaffinity(0))


class EncodeSettings(Section):
    """From squares to vectors."""

    model: str = "openai/clip-vit-base-patch32"
    """A CLIP model: hub id, folder, or `untrained` for a ViT-B/32 with seeded random weights (whose vectors mean
    nothing)."""

    model_revision: str = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
    """The hub's commit of the model, used when `model` is a hub id. Pinned, so that a run has one model."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; `auto`: CUDA if there is a device, else the CPU."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The computation's type; `auto`: float16 on CUDA, bfloat16 on CPUs that have it in hardware, else float32. What
    it is decides the vectors, so a run must not mix machines that would choose differently: name one then."""

    batch_size: int = Field(default=0, ge=0, le=8192)
    """Images in one forward pass. 0: 256 on CUDA, on CPUs 32 for each core and at most 256, from where on more is
    no faster."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    chunk: ChunkSettings
    manifest: ManifestSettings
    http: HttpSettings
    fetch: FetchSettings
    decode: DecodeSettings
    encode: EncodeSettings
