"""A whole run over images of a server: the start of its workers and its merge, and the check of its result."""

from __future__ import annotations

import asyncio
import csv
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY
from tests.image_server import answer
from tests.merger.runs import read_result, read_summary, run_merger
from tests.worker.images import PHOTOS, encoded, noise
from tests.worker.worker_process import start_worker, worker_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from subprocess import Popen

    from aiohttp import web

    from common.store.contract import Store
    from tests.image_server import Behaviour, ImageServer
    from tests.interruptions.killing import Reaper

TIMINGS = {
    *("created_at", "seconds", "bytes_copied_by_store", "bytes_uploaded", "bytes_read", "assembly", "verification"),
    *("chunk_times", "computing_seconds"),
}
"""The fields of a summary that depend on how chunks and a merge went and not on the result."""


@dataclass
class Watch:
    """Reports the requests for one chunk's images to a reaper, and delays the answer for the chunk's last image."""

    reaper: Reaper | None = None
    last_image_seconds: float = 0

    def over(self, then: Behaviour, *, is_last: bool = False) -> Behaviour:
        async def behave(request: web.BaseRequest) -> web.StreamResponse:
            if self.reaper is not None:
                await asyncio.to_thread(self.reaper.see_image)
            if is_last:
                await asyncio.sleep(self.last_image_seconds)
            return await then(request)

        return behave


@dataclass
class RunOfImages:
    """A manifest of three chunks with equally many bytes. Chunk 0 has `many` images, the others have `few`.

    With vectors of 32 KB, chunk 0 has 12 MB: enough for a first part with the URLs, which the merge uploads, and for a
    part that the store copies. Both must have at least 5 MiB.
    """

    server: ImageServer
    folder: Path
    model: Path
    many: int = 400
    few: int = 60
    watches: list[Watch] = field(default_factory=lambda: [Watch(), Watch(), Watch()])

    def __post_init__(self) -> None:
        self.manifest = self.folder / "manifest.csv"
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        with self.manifest.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["ImageID", "url"])
            for row in range(self.many):
                writer.writerow([f"a{row}", self.server.url(f"/0/{row % 50}.jpg?{row:04}")])
            length = file.tell() // self.few
            for chunk in (1, 2):
                for row in range(self.few):
                    url = self.server.url(f"/{chunk}/{row % 30}.jpg?{row:04}")
                    writer.writerow([f"{chunk}-{row}", url.ljust(length - len("1-00,\r\n"), "x")])
        bodies = [encoded(noise("RGB", 40, 40, seed=seed), "JPEG") for seed in range(48)]
        photos = [photo.read_bytes() for photo in PHOTOS]
        for chunk, watch in enumerate(self.watches):
            for name, body in enumerate(photos[:28] if chunk else bodies):
                self.server.on(f"/{chunk}/{name}.jpg", watch.over(answer(body)))
            names = (28, 29) if chunk else (48, 49)
            self.server.on(f"/{chunk}/{names[0]}.jpg", watch.over(answer(b"<html>no</html>")))
            self.server.on(f"/{chunk}/{names[1]}.jpg", watch.over(answer(status=404), is_last=True))

    def start_worker(self, uri: str, index: int, sdk: Mapping[str, str]) -> Popen[str]:
        environment = worker_environment(
            index=index,
            run_uri=uri,
            manifest_uri=self.manifest,
            model=self.model,
            chunk_count=3,
            batch_size=8,
            progress_seconds=0.1,
        )
        return start_worker(environment | dict(sdk) | {"TMPDIR": str(self.temporary)})

    def start_merger(self, uri: str, sdk: Mapping[str, str], **options: str) -> Popen[str]:
        return run_merger(uri, 3, dict(sdk) | {"TMPDIR": str(self.temporary)}, progress_seconds="0.1", **options)


def ended(process: Popen[str]) -> str:
    """Wait for the program's end, check that it succeeded, and return its log."""
    _, log = process.communicate(timeout=280)
    assert process.returncode == 0, log
    return log


def assert_same(store: Store, undisturbed: Store) -> None:
    """Check that the store holds a finished run with the result of the undisturbed one, and nothing else."""
    found, expected = read_result(store), read_result(undisturbed)
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert one is not None, name
        assert other is not None, name
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        assert one.tobytes() == other.tobytes(), name
    assert store.read(FAILURES_KEY) == undisturbed.read(FAILURES_KEY)
    assert _result_of(read_summary(store)) == _result_of(read_summary(undisturbed))
    assert sorted(found.key for found in store.list("")) == [RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY]


def _result_of(summary: dict[str, Any]) -> dict[str, Any]:
    result = {name: value for name, value in summary.items() if name not in TIMINGS}
    return result | {"chunks": [(each["index"], each["rows"], each["failed"]) for each in summary["chunk_times"]]}
