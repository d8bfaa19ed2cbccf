"""Workers that write checkpoints are killed again and again. The chunk is that of an undisturbed run."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from common.run.keys import CHECKPOINTS_PREFIX, chunk_key
from tests.image_server import answer, image_server
from tests.worker.images import encoded, noise
from tests.worker.worker_process import (
    object_keys,
    read_chunk,
    run_worker,
    start_worker,
    worker_environment,
    write_manifest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

    from common.store.contract import Store
    from tests.image_server import Behaviour

pytestmark = pytest.mark.slow

ROWS = 600
KILLS = 3
SEED = 19

WORK_SECONDS = 0.3
"""Longest time in seconds from a worker's first checkpoint to its kill. A whole chunk takes 1.5 s and more."""


def paced(then: Behaviour) -> Behaviour:
    """Behave like `then` after a moment, so that a worker takes seconds for the chunk."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await then(request)

    return behave


def test_a_chunk_whose_worker_is_killed_again_and_again_comes_to_the_same_bytes_with_few_images_fetched_twice(
    store: Store, model: Path, tmp_path: Path
) -> None:
    draw = random.Random(SEED)
    with image_server() as server:
        bodies = [encoded(noise("RGB", 40, 40, seed=seed), "JPEG") for seed in range(40)]
        urls = [server.on(f"/{row}.jpg", paced(answer(bodies[row % len(bodies)]))) for row in range(ROWS)]
        manifest = write_manifest(tmp_path, [*urls, server.url("/gone.jpg")])
        settings: dict[str, Any] = {"manifest_uri": manifest, "model": model, "batch_size": 8, "fetch_concurrency": 8}
        undisturbed = tmp_path / "undisturbed"
        ended = run_worker(run_uri=undisturbed, **settings, checkpoint_seconds=0)
        assert ended.exit_code == 0, ended.log
        server.requests.clear()
        environment = worker_environment(run_uri=store.uri, **settings, checkpoint_seconds=0.05)
        resumed = 0
        for _ in range(KILLS):
            with start_worker(environment) as process:
                assert process.stderr is not None
                lines = []
                for line in process.stderr:
                    lines.append(line)
                    if " checkpoint " in line:
                        time.sleep(draw.uniform(0, WORK_SECONDS))
                        process.kill()
            log = "".join(lines)
            assert "Traceback" not in log
            resumed += " resumed " in log
            assert store.stat(chunk_key(0)) is None or process.returncode == 0
        ended = run_worker(run_uri=store.uri, **settings, checkpoint_seconds=0.05)
        assert ended.exit_code == 0, ended.log
        requests = len(server.requests)
    assert resumed
    found, expected = read_chunk(store.uri), read_chunk(undisturbed)
    assert found.urls == expected.urls
    assert found.embeddings.tobytes() == expected.embeddings.tobytes()
    assert found.failures == expected.failures
    assert object_keys(store) == [chunk_key(0)]
    assert list(store.list(CHECKPOINTS_PREFIX)) == []
    assert requests < 2 * ROWS, "what was kept is not fetched again"
