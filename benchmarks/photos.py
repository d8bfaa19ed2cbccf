"""Photos for the benchmarks: the files of a folder, or different JPEGs that are made from the example photos.

A made photo has a long side of 1,024 pixels and about 200 KB.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples" / "photos"

LONG_SIDE = 1024

MIN_SOURCE_PIXELS = 400 * 400
"""Number of pixels of the smallest example that is used. Scaling a smaller one up gives an easy JPEG."""

SHORT_SIDES = (683, 768)
"""Lengths of the short side in pixels, for the usual shapes of photos: 3:2 and 4:3."""

GRAIN = 6.0
"""Standard deviation of the added film grain, out of 255. It makes the files as large as a camera's of this size."""

QUALITY = 88


def make_photos(folder: Path, count: int) -> list[Path]:
    """Write `count` JPEGs to `folder` and return their paths. Each is a different crop; some are mirrored."""
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    with ProcessPoolExecutor() as processes:
        list(processes.map(_make, paths, repeat(_sources()), range(count), chunksize=16))
    return paths


def link_photos(folder: Path, count: int, *, source: Path) -> list[Path]:
    """Link at most `count` files of `source` into `folder` and return the links.

    Raises ValueError if `source` has no files.
    """
    photos = sorted(path.resolve() for path in source.iterdir() if path.is_file())[:count]
    if not photos:
        raise ValueError(f"{source} has no files")
    links = [folder / f"{number:05}{photo.suffix}" for number, photo in enumerate(photos)]
    for link, photo in zip(links, photos, strict=True):
        link.symlink_to(photo)
    return links


def _sources() -> list[Path]:
    sources = []
    for path in sorted(EXAMPLES.glob("*.jpg")):
        with Image.open(path) as image:
            if image.width * image.height >= MIN_SOURCE_PIXELS:
                sources.append(path)
    return sources


def _make(path: Path, sources: list[Path], number: int) -> None:
    random = np.random.default_rng(number)
    short = SHORT_SIDES[random.integers(2)]
    with Image.open(sources[number % len(sources)]) as image:
        photo = image.convert("RGB")
    width, height = (LONG_SIDE, short) if photo.width >= photo.height else (short, LONG_SIDE)
    share = random.uniform(0.7, 1.0) * min(photo.width / width, photo.height / height)
    left, top = random.uniform(0, photo.width - share * width), random.uniform(0, photo.height - share * height)
    photo = photo.resize(
        (width, height), Image.Resampling.BICUBIC, (left, top, left + share * width, top + share * height)
    )
    pixels = np.asarray(photo, dtype=np.float32)
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    pixels = pixels + random.normal(0, GRAIN, (height, width, 1)).astype(np.float32)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
