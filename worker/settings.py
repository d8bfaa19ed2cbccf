"""The worker's settings, one section for each of its parts. See common.settings for how names map."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from common.format.provenance import program_version
from common.format.reasons import MAY_PASS, Reason
from common.indexes import parse_indexes
from common.settings import RunSettings, Section

INFLIGHT_BYTES_PER_DECODER = 32 << 20
"""Default of max_inflight_bytes for each decoder, in bytes: a quarter of a second of its work on photos of 200 KB."""

SPARE_DECODERS = 1
"""Number of decoders beyond one for each core. It works while another decoder waits for its next image or for room in a
batch. Measured on two cores: 2 to 9 % more images a second, at the same CPU for each image."""

PUBLIC_MIRROR_URL = "https://open-images-dataset.s3.amazonaws.com"
"""The public bucket with the images of Open Images."""

SOURCES = ("mirror", "thumbnail", "original", "url", "bytes")
"""The sources that EMBEDDER_SOURCES may name."""


class ChunkSettings(RunSettings):
    """Which chunk is computed, and when it counts as failed."""

    job_completion_index: int | None = Field(default=None, ge=0, validation_alias="JOB_COMPLETION_INDEX")
    """Index of this pod in the Indexed Job, from 0. Kubernetes sets it. Without EMBEDDER_CHUNK_INDEXES it is also the
    index of the chunk."""

    chunk_indexes: str = ""
    """Chunks of a rerun, as in `3,7-9`: pod i computes the i-th of these chunks. Empty: pod i computes chunk i. Of a
    long list, `embedder rerun` writes a compact form, `bitmap:…`."""

    uncounted_failures: int = Field(default=0, ge=0)
    """Number of pods of this chunk that were stopped or evicted without being counted as failures. The chart takes it
    from an annotation of the pod. From 10 on, a worker that is stopped ends with exit code 75, not 143."""

    counted_failures: int | None = Field(default=None, ge=0)
    """Number of pods of this chunk that have failed before and were counted. With the uncounted ones it gives the
    number of the attempt, which the report of the run shows. The chart takes it from an annotation of the pod."""

    sample_pictures: bool = True
    """Whether a chunk file holds a few small pictures of its images, 112 pixels wide, of which the merge makes the
    contact sheet of the run's report: one of each chunk, more in a run of less than 24 chunks. Turn it off where no
    copy of the images may be kept."""

    max_failure_ratio: float = Field(default=0.2, ge=0, le=1)
    """Largest share of a chunk's rows that may fail. Above it the chunk ends with exit code 65 and stores only
    the list of its failed images: so many failures mean a wrong list, or a source that is down. 2 to 5 % of Open
    Images' photos are gone."""

    top_up: bool = False
    """Whether only those failed images are computed again that may succeed now. All other rows are taken from the
    chunk, or from the result once the run is merged. The Job of a top-up sets it."""

    top_up_reasons: str = ""
    """Reasons of the ledger for which a top-up computes an image again, separated by commas. Empty: those that may
    pass, `deferred`, `rate_limited`, `server_error`, `timeout` and `connection_failed`."""

    checkpoint_seconds: float = Field(default=120, ge=0)
    """Time in seconds between two checkpoints of a chunk: what it has embedded since the last one is kept in the store,
    and the next attempt goes on from there if the pod is killed or evicted. So about two minutes of work are lost at
    most. A row is written once, 2 KB of it, which takes less than 2 % of the time in which its image is fetched and
    decoded. 0: no checkpoint is written, or read."""

    progress_seconds: float = Field(default=10, gt=0)
    """Time between two lines of progress in the log."""

    metrics_port: int = Field(default=0, ge=0, le=65_535)
    """Port that serves Prometheus metrics: images, failures by reason, seconds that each stage worked and waited.
    0: no metrics."""

    @field_validator("chunk_indexes")
    @classmethod
    def _are_indexes(cls, text: str) -> str:
        parse_indexes(text)
        return text

    @field_validator("top_up_reasons")
    @classmethod
    def _are_reasons(cls, text: str) -> str:
        names = [name.strip() for name in text.split(",")] if text.strip() else []
        known = {reason.value for reason in Reason}
        if wrong := [name for name in names if name not in known]:
            raise ValueError(f"{wrong[0]!r} is no reason of the ledger; choose from {', '.join(sorted(known))}")
        return ",".join(names)

    @model_validator(mode="after")
    def _index_is_within(self) -> Self:
        if self.job_completion_index is None:
            raise ValueError("JOB_COMPLETION_INDEX is not set; it is the index of the chunk, from 0")
        chunks = parse_indexes(self.chunk_indexes) or range(self.chunk_count)
        if self.job_completion_index >= len(chunks):
            setting = "EMBEDDER_CHUNK_INDEXES" if self.chunk_indexes else "EMBEDDER_CHUNK_COUNT"
            raise ValueError(
                f"JOB_COMPLETION_INDEX is {self.job_completion_index}, but there are {len(chunks)} chunks ({setting}); "
                f"the largest index is {len(chunks) - 1}"
            )
        if chunks[-1] >= self.chunk_count:
            raise ValueError(
                f"EMBEDDER_CHUNK_INDEXES names chunk {chunks[-1]}, but the last of EMBEDDER_CHUNK_COUNT "
                f"{self.chunk_count} is {self.chunk_count - 1}"
            )
        return self

    @property
    def reasons_to_top_up(self) -> frozenset[Reason]:
        """Return the reasons for which a top-up computes an image again."""
        return frozenset(map(Reason, self.top_up_reasons.split(","))) if self.top_up_reasons else MAY_PASS

    @property
    def attempt(self) -> int | None:
        """Return the number of this attempt at the chunk, from 1, None if it is not known."""
        return None if self.counted_failures is None else self.counted_failures + self.uncounted_failures + 1

    @property
    def chunk_index(self) -> int:
        """Return the chunk that this pod computes."""
        chunks = parse_indexes(self.chunk_indexes) or range(self.chunk_count)
        return chunks[self.job_completion_index or 0]


class ManifestSettings(Section):
    """The list of images, and which of its columns mean what."""

    manifest_uri: str = Field(min_length=1)
    """What to embed: a list of images (CSV, TSV, Parquet, JSONL, TXT, JSON), a Parquet file or a WebDataset tar that
    holds the images themselves, or a folder of pictures; a path, or an http://, https://, s3://, gs:// or
    hf://datasets/ URL. Several files are one manifest: a folder, a prefix that ends in `/`, a glob such as
    `part-*.parquet`, braces such as `{00000..00099}.tar`, or files separated by commas. `openimages:train`,
    `openimages:validation`, `openimages:test` and `openimages:all` name the lists that Open Images V7 publishes."""

    manifest_token: SecretStr = SecretStr("")
    """Bearer token for the server of an http:// or https:// manifest, or for a data set at hf://, sent to that server
    alone. Take it from a Secret."""

    max_listed_files: int = Field(default=100_000, ge=1)
    """Largest number of files that a pod lists in a folder, under a prefix or for a glob. Every pod lists them, so
    above this number `embedder list` writes the list once."""

    openimages_url: str = "https://storage.googleapis.com/openimages"
    """URL below which the published lists lie that `openimages:train` and its like name: Open Images' own bucket, or a
    copy of it."""

    ids_uri: str = ""
    """A JSON array of ids beside a JSON array of URLs (`image_ids.json` beside `image_urls.json`)."""

    manifest_format: Literal["auto", "csv", "tsv", "parquet", "jsonl", "txt", "json", "tar", "images"] = "auto"
    """Format of the manifest. `auto` chooses by the endings of the file names. `images`: each file is a picture."""

    manifest_columns: str = ""
    """Names of the columns of a CSV or TSV file without a header line, separated by commas, as in `id,url`. The first
    line is then a row."""

    url_column: str = ""
    """Name of the column with the URLs. Empty: the first of `OriginalURL`, `image_url`, `url`, `file_name` and similar
    names that exists. Case, spaces and punctuation do not matter."""

    id_column: str = ""
    """Name of the column with the ids. Empty: the first of `ImageID`, `photo_id`, `id`, `key`, `uid` and similar names
    that exists."""

    image_column: str = ""
    """Name of the column of a Parquet file that holds the images themselves: bytes, or a struct of `bytes` and `path`
    as Hugging Face writes it. Empty: the first such column with a usual name, or the only one."""

    subset: Literal["", "train", "validation", "test"] = ""
    """Open Images' subset of all rows of a list that has ids and no column `Subset`: the folder of the images on the
    mirror."""

    max_url_bytes: int = Field(default=2048, ge=16, le=65_536)
    """Length in bytes of the longest URL that is accepted. A longer URL becomes a row of the ledger, because one
    absurd URL would widen every row of the result. Browsers and proxies agree on 2,048."""

    sources: str = "auto"
    """Sources of an image in the order in which they are tried, separated by commas: `mirror`, `thumbnail`, `original`,
    `url`, and `bytes` for images that the manifest itself holds. `auto`: `mirror,thumbnail,original` for Open Images'
    own files, `bytes` or `bytes,url` where the manifest holds images, `url` for other manifests."""

    rotate: bool = True
    """Whether the manifest's rotation (Open Images: degrees counter-clockwise) is applied before the preprocessing."""

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
    """Longest time to open a connection, name resolution and TLS included."""

    read_timeout_seconds: float = Field(default=20, gt=0)
    """Longest time between two pieces of an answer."""

    retry_after_limit_seconds: float = Field(default=60, ge=0)
    """Longest pause that the server of a manifest may ask for with Retry-After. It is added to the pause before a
    retry. A longer one is cut to this time. A site of images may ask for an hour at most, in which other sites go
    on."""

    user_agent: str = "embedder/{version} (batch image embedding job)"
    """User-Agent header of every request; `{version}` stands for the version of the program. Add an address where the
    operators of the sources can reach you."""

    @field_validator("user_agent")
    @classmethod
    def _is_a_header(cls, text: str) -> str:
        if not (text.isascii() and text.isprintable()):
            raise ValueError("an HTTP header takes printable ASCII only")
        return text

    @property
    def user_agent_header(self) -> str:
        return self.user_agent.replace("{version}", program_version())


class FetchSettings(Section):
    """From a row to an image's bytes."""

    mirror_url: str = PUBLIC_MIRROR_URL
    """URL of the mirror, which holds `<subset>/<id>.jpg`: the public bucket, or a copy of it (http, https or s3)."""

    fetch_concurrency: int = Field(default=64, ge=1, le=4096)
    """Number of requests in flight. Politeness to the sources limits it, not this machine: 64 keep one GPU fed at 20 ms
    a GET."""

    fetch_concurrency_per_host: int = Field(default=48, ge=1, le=4096)
    """Number of requests in flight to one host. It is below `fetch_concurrency`, so one slow host leaves room for the
    other hosts."""

    fetch_timeout_seconds: float = Field(default=60, gt=0)
    """Longest time of one whole request. It also ends a request to a host that sends a few bytes at a time."""

    fetch_attempts: int = Field(default=6, ge=1, le=20)
    """Largest number of requests for one image from one source. A request is repeated after a fault that may pass (5xx,
    a reset, a timeout). An answer that asks for fewer requests, 429 or 503 with Retry-After, does not count."""

    source_patience_seconds: float = Field(default=90, gt=0)
    """Time for which a failing host is tried. After this time the host's images fail without a request. When no host
    has answered for that long, the chunk ends with exit code 75 and no image counts as failed. A store that restarts
    takes a minute."""

    max_rate_per_site: float = Field(default=0, ge=0)
    """Largest number of requests a second that this worker sends to one site: a registered domain such as flickr.com
    with all its hosts. 0: no limit, apart from the pace that the worker finds for a site that answers 429 or 503."""

    min_rate_per_site: float = Field(default=0.05, gt=0)
    """Smallest number of requests a second to which a site can slow this worker down. The default, one request in 20 s,
    notices within half a minute that a site serves again. A longer Retry-After is obeyed all the same."""

    site_rates: str = ""
    """Fixed rates of sites that you know, in requests a second of this worker, as in `flickr.com=2,example.org=10`.
    Such a site is not asked faster or slower than that, whatever it answers; only Retry-After interrupts it."""

    slow_site_seconds: float = Field(default=300, ge=0)
    """Time for which the chunk goes on when only images of slow sites are left. The images that have had no turn by
    then fail as `deferred`, and a top-up fetches them. A slow site is one that the worker asks at a limited rate. The
    default is about the time that another pod takes to come back for the same images: it is scheduled, pulls its image
    and loads its model. Raise it where a waiting worker costs little, as on CPUs."""

    max_image_bytes: int = Field(default=64 << 20, ge=1024)
    """Size in bytes of the largest image that is fetched. Open Images' largest original has about 30 MB."""

    verify_image_certificates: bool = True
    """Whether a host of images must show a valid certificate. Without the check, whoever sits between can send other
    pictures. The manifest, the store and the hub are always checked."""

    allow_private_hosts: bool = False
    """Whether images are also fetched from private, loopback and link-local addresses and from any port. It is off, so
    that a list from the internet cannot reach into the cluster. The operator's own manifest, mirror and S3 endpoint
    are always allowed."""

    @field_validator("site_rates")
    @classmethod
    def _are_rates(cls, text: str) -> str:
        parse_site_rates(text)
        return text

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if 0 < self.max_rate_per_site < self.min_rate_per_site:
            raise ValueError(
                f"EMBEDDER_MIN_RATE_PER_SITE {self.min_rate_per_site:g} is above EMBEDDER_MAX_RATE_PER_SITE "
                f"{self.max_rate_per_site:g}; lower it"
            )
        return self

    @property
    def rates_by_site(self) -> dict[str, float]:
        """Return the fixed rates in requests/s, by site."""
        return parse_site_rates(self.site_rates)


def parse_site_rates(text: str) -> dict[str, float]:
    """Return the rates of a list such as `flickr.com=2,example.org=10`. Raises ValueError."""
    rates: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        site, _, value = part.partition("=")
        site = site.strip().lower()
        try:
            rate = float(value)
        except ValueError:
            rate = math.nan
        if not site or not 0 < rate < math.inf:
            raise ValueError(f"{part!r} is no site with its rate in requests a second, as in flickr.com=2")
        if site in rates:
            raise ValueError(f"{site} has two rates")
        rates[site] = rate
    return rates


class DecodeSettings(Section):
    """From bytes to a square."""

    decode_threads: int = Field(default=0, ge=0, le=256)
    """Number of decoders: processes that fetch, decode and resize, each about 400 images a second on a core of its own.
    0: one for each core that this process may use. One spare decoder is started as well, to work while another one
    waits."""

    decode_timeout_seconds: float = Field(default=30, gt=0)
    """Longest CPU time to decode and resize one image. The largest images take five seconds. The limit by the clock is
    twenty times as long."""

    max_image_pixels: int = Field(default=178_956_970, ge=1)
    """Number of pixels of the largest image that is decoded, by its header. The default is the size above which Pillow
    refuses an image as a decompression bomb: 512 MiB of RGB."""

    max_inflight_bytes: int = Field(default=0, ge=0)
    """Number of bytes of all images together that are fetched and not yet decoded. It limits the memory, whatever the
    sizes of the images. 0: 32 MiB for each decoder except the spare one."""

    @property
    def decoder_count(self) -> int:
        """Return the number of decoders, the spare one included."""
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
    """The CLIP model: an id of the hub, a folder, or `untrained` for a ViT-B/32 with seeded random weights, whose
    vectors mean nothing."""

    model_revision: str = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
    """Commit of the model on the hub, used when `model` is an id of the hub. It is pinned, so that a run has one
    model."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that runs the model. `auto`: CUDA if there is an NVIDIA GPU, else the CPU. A GPU that cannot be used, as
    with a driver that is too old, ends the chunk with exit code 75, also with `auto`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the computation. `auto`: float16 on CUDA, bfloat16 on CPUs that have it in hardware, else float32. The
    type decides the vectors, so name one when the machines of a run would choose different types."""

    batch_size: int = Field(default=0, ge=0, le=8192)
    """Number of images in one forward pass. 0: chosen for the device. On CPUs 32 for each core, at most 256, because
    larger batches are no faster, but 16 for each core at least. On CUDA by the GPU's multiprocessors and memory: 128 on
    a T4 or L4, 256 on an A100, 320 on an H100; these are estimates."""

    encode_timeout_seconds: float = Field(default=600, gt=0)
    """Longest time of one batch on the device. After it, the device counts as hanging and the chunk ends with exit code
    75, to be computed on another node. A GPU takes a second; the default leaves room for the largest CLIP models on one
    slow core, where a batch takes minutes."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    chunk: ChunkSettings
    manifest: ManifestSettings
    http: HttpSettings
    fetch: FetchSettings
    decode: DecodeSettings
    encode: EncodeSettings
