"""A worker with a list of Open Images' ids: images come from the mirror, and the log says which columns are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.image_server import answer, image_server
from tests.worker.worker_process import PHOTOS, read_chunk, run_worker

if TYPE_CHECKING:
    from pathlib import Path

PHOTO = next(path for path in PHOTOS if path.name == "coffee.jpg").read_bytes()


@pytest.mark.slow
def test_a_list_of_ids_is_embedded_from_the_mirror(tmp_path: Path, quick_clip: Path) -> None:
    manifest = tmp_path / "ids.csv"
    manifest.write_text("ImageID,Subset\n00000000000000a0,train\n00000000000000a1,test\nno-id,train\n")
    with image_server() as server:
        server.on("/copy/train/00000000000000a0.jpg", answer(PHOTO))
        server.on("/copy/test/00000000000000a1.jpg", answer(PHOTO))
        ended = run_worker(
            manifest_uri=manifest,
            run_uri=tmp_path / "run",
            model=quick_clip,
            mirror_url=f"{server.origin}/copy",
            max_failure_ratio=0.5,
        )
        urls = [f"{server.origin}/copy/train/00000000000000a0.jpg", f"{server.origin}/copy/test/00000000000000a1.jpg"]
    assert ended.exit_code == 0
    chunk = read_chunk(tmp_path / "run")
    assert (chunk.urls, chunk.ids) == (urls, ["00000000000000a0", "00000000000000a1"])
    assert chunk.failures == {"": "malformed_row"}
    (started,) = ended.events("started")
    assert started.values["columns"] == "url=ImageID, id=ImageID, subset=Subset"
