"""Hostile bytes: the outcome is a square of the right shape or an ImageFailed, in bounded memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.format.reasons import Reason
from tests.worker.images import PHOTOS, announcing, cut_points, encoded, every_kind, mutations, photo, png, png_chunk
from worker.decode.preprocess import image_square
from worker.rows import ImageFailed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

LIMIT = 178_956_970
"""The default of EMBEDDER_MAX_IMAGE_PIXELS."""

SMALL = (60, 42)
KINDS = every_kind(photo().resize(SMALL))
MANY_PICTURES = {"JPEG of two pictures", "PNG animated", "GIF animated", "TIFF of two pages", "AVIF animated"}
"""Kinds in which a cut may leave the first picture whole."""

DAMAGED = {Reason.TRUNCATED, Reason.CORRUPT, Reason.NOT_AN_IMAGE, Reason.UNSUPPORTED_PIXELS}

TAIL_BYTES = 24
"""Maximum number of bytes after a picture's last pixel: checksums and IEND of a PNG, padding of rows, end markers."""

JPEG_TAIL_BYTES = 2
"""The same number for a JPEG: its end marker."""


def square_or_reason(data: bytes, *, max_pixels: int = LIMIT) -> torch.Tensor | Reason:
    try:
        square = image_square(data, max_pixels=max_pixels)
    except ImageFailed as failed:
        return failed.reason
    assert square.shape == (224, 224, 3)
    assert square.dtype == torch.uint8
    return square


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\xff\xd8",
        b"GIF89",
        b"BM",
        bytes(5000),
        b"<!doctype html><html><body>This photo is no longer available</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
        b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
        b'{"error": "not found"}',
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"PK\x03\x04" + bytes(100),
        b"8BPS\0\1" + bytes(100),
        b"\0\0\0\x18ftypheic" + bytes(100),
        b"\0\0\1\0\1\0\x10\x10" + bytes(100),
        b"P6 2 2 255\n" + bytes(12),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_bytes_of_no_supported_format_are_not_an_image(data: bytes) -> None:
    assert square_or_reason(data) is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_cut_file_is_damaged_wherever_it_is_cut(kind: str) -> None:
    data = KINDS[kind]
    whole = image_square(data, max_pixels=LIMIT)
    tail = JPEG_TAIL_BYTES if kind.startswith("JPEG") else TAIL_BYTES
    for end in cut_points(len(data), count=30):
        found = square_or_reason(data[:end])
        if not isinstance(found, torch.Tensor):
            assert found in DAMAGED, end
            continue
        # A square is right only if every pixel of the first picture is still there.
        assert torch.equal(found, whole), end
        assert kind in MANY_PICTURES or len(data) - end <= tail, end


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_half_a_photo_is_truncated(path: Path) -> None:
    data = path.read_bytes()
    assert square_or_reason(data[: len(data) // 2]) is Reason.TRUNCATED
    assert square_or_reason(data[:-100]) is Reason.TRUNCATED


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - MANY_PICTURES - {"TIFF JPEG", "TIFF fax"}))
def test_half_a_file_of_any_kind_is_truncated(kind: str) -> None:
    assert square_or_reason(KINDS[kind][: len(KINDS[kind]) // 2]) is Reason.TRUNCATED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_an_image_with_a_cut_header_is_a_damaged_image(kind: str) -> None:
    assert square_or_reason(KINDS[kind][:20]) in {Reason.CORRUPT, Reason.TRUNCATED}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("buffer", [bytearray, memoryview])
def test_a_damaged_image_has_the_same_reason_in_any_buffer(kind: str, buffer: type[bytearray | memoryview]) -> None:
    for end in (5, 20, len(KINDS[kind]) // 3):
        cut = KINDS[kind][:end]
        with pytest.raises(ImageFailed) as caught:
            image_square(buffer(cut), max_pixels=LIMIT)
        assert caught.value.reason is square_or_reason(cut)


@pytest.mark.parametrize("kind", ["WebP", "TIFF LZW"])
def test_damage_that_keeps_the_length_is_not_a_cut(kind: str) -> None:
    data = KINDS[kind]
    assert square_or_reason(data[:16] + bytes(len(data) - 16)) in {Reason.CORRUPT, Reason.NOT_AN_IMAGE}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_limit_of_pixels_is_met_to_the_pixel(kind: str) -> None:
    pixels = SMALL[0] * SMALL[1]
    assert isinstance(square_or_reason(KINDS[kind], max_pixels=pixels), torch.Tensor)
    assert square_or_reason(KINDS[kind], max_pixels=pixels - 1) is Reason.TOO_MANY_PIXELS


BOMBS = announcing(65_535, 65_535)


@pytest.mark.parametrize("kind", sorted(BOMBS))
def test_a_header_that_announces_too_many_pixels_is_believed(kind: str) -> None:
    assert square_or_reason(BOMBS[kind]) is Reason.TOO_MANY_PIXELS


def test_a_picture_that_is_larger_than_the_file_says_is_not_decoded() -> None:
    data = bytearray(encoded(Image.new("RGB", (3000, 2000)), "AVIF", speed=10))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 64, 64)
    assert square_or_reason(bytes(data), max_pixels=1_000_000) is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("kind", sorted(kind for kind in BOMBS if not kind.startswith(("WebP", "JPEG XL"))))
@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 10), (10, 0)])
def test_an_image_without_pixels_is_damaged(kind: str, width: int, height: int) -> None:
    found = square_or_reason(announcing(width, height)[kind])
    # The screen of a GIF grows to the size of its frame, so an empty screen shows a whole picture.
    assert found in DAMAGED or (kind == "GIF screen" and isinstance(found, torch.Tensor))


def zipped_bombs() -> dict[str, bytes]:
    """Return PNGs of 10 x 10 pixels with 200 MB compressed in a chunk without pixels, or after the pixels."""
    header = struct.pack(">IIBBBBB", 10, 10, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(200_000_000), 1)
    pixels = zlib.compress(bytes(310))
    return {
        "zTXt": png(header, before_data=png_chunk(b"zTXt", b"a\0\0" + packed), data=pixels),
        "iTXt": png(header, before_data=png_chunk(b"iTXt", b"a\0\1\0\0\0" + packed), data=pixels),
        "iCCP": png(header, before_data=png_chunk(b"iCCP", b"a\0\0" + packed), data=pixels),
        "IDAT": png(header, data=packed),
    }


MEASURED_IN_ITS_OWN_PROCESS = """
import resource, sys
from tests.worker.decode import test_hostile_images as hostile
from tests.worker.images import announcing

files = {**announcing(65_535, 65_535), **hostile.zipped_bombs()}
hostile.square_or_reason(hostile.KINDS["PNG"])
# Reset the peak, which the making of the files has raised.
open("/proc/self/clear_refs", "w").write("5")
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before = peak()
for name, data in files.items():
    hostile.square_or_reason(data)
    print(name, (peak() - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak")
def test_no_bomb_takes_memory() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURED_IN_ITS_OWN_PROCESS],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    peaks = dict(line.rsplit(" ", 1) for line in run.stdout.splitlines())
    assert len(peaks) == len(BOMBS) + 4
    # The smallest bomb would unpack to 200 MB, the others to 800 MB and more.
    assert max(map(int, peaks.values())) < 64, peaks


def test_a_bomb_beside_the_pixels_is_damage_or_ignored() -> None:
    for name, data in zipped_bombs().items():
        found = square_or_reason(data)
        assert found is Reason.CORRUPT or isinstance(found, torch.Tensor), name


def test_a_polyglot_is_the_image_it_begins_as() -> None:
    comment = b"<script>alert(1)</script><?php system($_GET[0]); ?>"
    plain, harmless = encoded(photo(), "JPEG"), encoded(photo(), "JPEG", comment=comment)
    assert comment in harmless
    assert torch.equal(image_square(harmless, max_pixels=LIMIT), image_square(plain, max_pixels=LIMIT))
    assert square_or_reason(comment + plain) is Reason.NOT_AN_IMAGE


def _fuzz(*, variants_of_each: int, seed: int) -> int:
    survived = 0
    for number, (kind, data) in enumerate(sorted(KINDS.items())):
        for variant in mutations(data, count=variants_of_each, seed=seed + number):
            found = square_or_reason(variant, max_pixels=1_000_000)
            assert isinstance(found, torch.Tensor) or found in {*DAMAGED, Reason.TOO_MANY_PIXELS}, kind
            survived += isinstance(found, torch.Tensor)
    return survived


def test_damaged_bytes_are_a_square_or_a_failure() -> None:
    survived = _fuzz(variants_of_each=12, seed=7)
    assert 0 < survived < 12 * len(KINDS)


@pytest.mark.slow
def test_thousands_of_damaged_files_are_squares_or_failures() -> None:
    assert _fuzz(variants_of_each=150, seed=1000) > 0
    assert 150 * len(KINDS) > 5000
