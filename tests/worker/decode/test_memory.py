"""An image is never blamed for memory that the machine does not give."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.worker.images import encoded, photo

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[3]

DECODED_WITH_LITTLE_MEMORY = """
    # Decodes each image in a fork that gets no more memory than so many MiB, and says what came of it.
    import os, pickle, resource, sys
    from pathlib import Path
    from worker.decode.preprocess import image_square
    from worker.rows import ImageFailed

    def size():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmSize"))

    for name, data in pickle.loads(Path(sys.argv[1]).read_bytes()).items():
        for mebibytes in map(int, sys.argv[2:]):
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                continue
            resource.setrlimit(resource.RLIMIT_AS, (size() + (mebibytes << 20),) * 2)
            try:
                image_square(data, max_pixels=10**8)
                outcome = "square"
            except MemoryError:
                outcome = "memory"
            except ImageFailed as failed:
                outcome = f"blamed:{failed.detail}"
            os.write(1, f"{name}\\t{mebibytes}\\t{outcome}\\n".encode())
            os._exit(0)
"""


def outcomes(files: Mapping[str, bytes], tmp_path: Path, *mebibytes: int) -> dict[str, set[str]]:
    (tmp_path / "files").write_bytes(pickle.dumps(dict(files)))
    done = subprocess.run(
        [
            *(sys.executable, "-c", textwrap.dedent(DECODED_WITH_LITTLE_MEMORY), str(tmp_path / "files")),
            *map(str, mebibytes),
        ],
        # Freed memory goes back to the system, so that every allocation meets the limit.
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, set[str]] = {name: set() for name in files}
    for line in done.stdout.splitlines():
        name, _, outcome = line.split("\t")
        found[name].add(outcome)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the size of the memory")
def test_an_image_that_finds_no_memory_is_not_blamed(tmp_path: Path) -> None:
    image = Image.effect_noise((2400, 1600), 60).convert("RGB")
    files = {
        "JPEG progressive": encoded(image, "JPEG", progressive=True),
        "PNG": encoded(image, "PNG", compress_level=1),
        "WebP": encoded(image, "WEBP", method=0),
        "GIF": encoded(image.convert("L"), "GIF"),
        "TIFF": encoded(image, "TIFF", compression="tiff_lzw"),
        "AVIF": encoded(image, "AVIF", speed=10),
        "JP2": encoded(image, "JPEG2000"),
    }
    found = outcomes(files, tmp_path, 1, 4, 8, 12, 16, 20, 24, 30, 36, 45, 60, 80, 120, 400)
    assert found == {name: {"memory", "square"} for name in files}


def test_a_damaged_image_is_blamed_where_there_is_memory(tmp_path: Path) -> None:
    data = encoded(photo(), "JPEG2000")
    (outcome,) = outcomes({"JP2": data[: len(data) // 2]}, tmp_path, 400)["JP2"]
    assert outcome.startswith("blamed")
