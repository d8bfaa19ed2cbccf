"""Functions that fetch images in one call, for tests."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest

from common.format.reasons import Reason
from common.settings import read_settings
from tests.image_server import answer, image_server
from tests.worker.fetch.thread_transport import Image, ThreadTransport
from worker.fetch.image_fetcher import ImageFetcher
from worker.fetch.must_wait import MustWait
from worker.fetch.relayed_proxies import RelayedProxies
from worker.rows import ImageFailed, Row
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from worker.fetch.resolvers import Resolver

PICTURE = os.urandom(200_000)


def worker_settings(**changed: Any) -> WorkerSettings:  # noqa: ANN401 - the settings' own types
    """Return settings that allow a server on loopback and one attempt, unless they are changed."""
    values: dict[str, Any] = {
        "run_uri": "out",
        "chunk_count": 1,
        "manifest_uri": "images.csv",
        "JOB_COMPLETION_INDEX": 0,
        "allow_private_hosts": True,
        "fetch_attempts": 1,
    }
    return read_settings(WorkerSettings, **(values | changed))


@asynccontextmanager
async def image_fetcher(
    settings: WorkerSettings,
    *,
    sources: tuple[str, ...] = ("url",),
    folder: Path | None = None,
    resolver: Resolver | None = None,
) -> AsyncIterator[ImageFetcher[Image]]:
    """Yield a fetcher with the sections of a worker's settings that it needs."""
    with closing(RelayedProxies(connect_timeout_seconds=settings.http.connect_timeout_seconds)) as proxies:
        async with (
            ThreadTransport(settings) as transport,
            ImageFetcher(
                transport,
                settings.fetch,
                settings.http,
                inflight_bytes=settings.decode.inflight_bytes,
                sources=sources,
                folder=folder,
                proxies=proxies,
                resolver=resolver,
            ) as fetcher,
        ):
            yield fetcher


async def get(fetcher: ImageFetcher[Image], image: str | Row) -> bytes | Reason:
    """Return the image, or the reason of its failure."""
    row = image if isinstance(image, Row) else Row(position=0, url=image)
    try:
        held = await fetcher.fetch(row)
    except ImageFailed as failed:
        return failed.reason
    except MustWait:
        return Reason.RATE_LIMITED  # a chunk would ask again later
    held.release()
    return held.image.data


@asynccontextmanager
async def fetcher_among_others(
    *,
    sources: tuple[str, ...] = ("url",),
    **changed: Any,  # noqa: ANN401 - as above
) -> AsyncIterator[ImageFetcher[Image]]:
    """Yield a fetcher that has an answer of another host, so that a failure is not blamed on the network."""
    settings = worker_settings(**changed)
    with image_server() as elsewhere:
        async with image_fetcher(settings, sources=sources) as fetcher:
            if settings.fetch.allow_private_hosts:
                await get(fetcher, Row(position=0, url=(url := elsewhere.on("/", answer())), thumbnail=url))
            yield fetcher


def fetch(*images: str | Row, sources: tuple[str, ...] = ("url",), **changed: Any) -> list[bytes | Reason]:  # noqa: ANN401 - as above
    """Fetch the images one after the other with one fetcher."""

    async def run() -> list[bytes | Reason]:
        async with fetcher_among_others(sources=sources, **changed) as fetcher:
            return [await get(fetcher, image) for image in images]

    return asyncio.run(run())


def fetch_together(*images: str | Row, **changed: Any) -> list[bytes | Reason]:  # noqa: ANN401 - as above
    """Fetch the images at the same time with one fetcher."""

    async def run() -> list[bytes | Reason]:
        async with fetcher_among_others(**changed) as fetcher:
            return await asyncio.gather(*(get(fetcher, image) for image in images))

    return asyncio.run(run())


def failure(image: str | Row, *, sources: tuple[str, ...] = ("url",), **changed: Any) -> ImageFailed:  # noqa: ANN401 - as above
    """Fetch an image that no source has, and return its failure."""
    row = image if isinstance(image, Row) else Row(position=0, url=image)

    async def run() -> ImageFailed:
        async with fetcher_among_others(sources=sources, **changed) as fetcher:
            with pytest.raises(ImageFailed) as caught:
                await fetcher.fetch(row)
            return caught.value

    return asyncio.run(run())
