"""Makes the seeds of the fuzzer.

`python -m worker.decode.plain_jpeg.fuzz.seeds` writes them into `seeds/`: small JPEGs of every kind that the compiled
decoder takes, files of other kinds, and damaged files. Another version of Pillow may write other bytes; any seeds do.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image

from tests.worker.images import encoded, noise, photo
from worker.decode.plain_jpeg.tests.fuzz_inputs import SEEDS, Options
from worker.decode.plain_jpeg.tests.plain_jpegs import grey_file, huffman_table, plain_jpeg_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVERY_LENGTH = [1] * 16
"""Number of codes of 1 to 16 bits: one of each."""


def main() -> None:
    SEEDS.mkdir(exist_ok=True)
    for name, data in [*_plain_files(), *_other_files(), *_damaged_files()]:
        (SEEDS / f"{name}.jpg").write_bytes(data)


def _plain_files() -> Iterator[tuple[str, bytes]]:
    whole, scaled = Options(), Options(side=21)
    for subsampling in ("444", "422", "420", "grey"):
        for width, height in ((16, 16), (17, 31), (50, 35)):
            name = f"{subsampling}-{width}x{height}"
            yield name, _seed(_small(width, height, subsampling, quality=60), whole if width == 16 else scaled)
        yield f"{subsampling}-fine", _seed(_small(24, 20, subsampling, quality=100), whole)
        yield f"{subsampling}-coarse", _seed(_small(70, 40, subsampling, quality=1), Options(side=33))
        yield f"{subsampling}-restarts", _seed(_small(41, 37, subsampling, restart_marker_blocks=2), scaled)
        yield f"{subsampling}-optimized", _seed(_small(48, 32, subsampling, optimize=True), Options(side=60))
        noisy = plain_jpeg_of(noise("RGB", 20, 18), _name(subsampling), quality=100)
        yield f"{subsampling}-noise", _seed(noisy, whole)
    data = _small(40, 30, "420", optimize=True)
    yield "long", _seed(_small(180, 16, "420", optimize=True), Options(side=8, size=8, left=3))
    yield "tall", _seed(_small(16, 180, "422", optimize=True), Options(side=8, size=4, top=90))
    yield "corner", _seed(_small(90, 80, "420", optimize=True), Options(size=17, left=80, top=80))
    yield "enlarged", _seed(_small(18, 16, "444", optimize=True), Options(side=120, size=31, left=9, top=60))
    yield "shrunk", _seed(_small(320, 300, "grey", quality=1, optimize=True), Options(side=4))
    yield "extended", _seed(data.replace(b"\xff\xc0", b"\xff\xc1", 1), whole)
    yield "comment", _seed(_with(data, b"\xff\xfe\0\x0ea comment...", b"\xff\xff"), whole)
    yield "exif", _seed(_with_exif(), whole)
    yield "icc", _seed(_with(data, b"\xff\xe2\0\x14ICC_PROFILE\0\1\1abcd"), whole)
    yield "adobe", _seed(_with(data[:2] + data[20:], b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1"), whole)
    yield "no-jfif", _seed(data[:2] + data[20:], whole)
    yield "long-codes", _seed(grey_file(dc=huffman_table(_EVERY_LENGTH[:15]), ac=huffman_table(_EVERY_LENGTH)), whole)
    flipped = bytearray(data)
    flipped[-40] ^= 2
    yield "flipped-bit", _seed(bytes(flipped), whole)
    yield "trailing-bytes", _seed(data + b"more bytes", whole)


def _other_files() -> Iterator[tuple[str, bytes]]:
    """JPEGs that are left to the libraries: of other kinds, or with headers that the libraries warn of."""
    pixels = np.asarray(photo().resize((40, 30)))
    data = _small(40, 30, "420", optimize=True)
    yield "other-440", _seed(simplejpeg.encode_jpeg(pixels, colorsubsampling="440"))
    yield "other-411", _seed(simplejpeg.encode_jpeg(pixels, colorsubsampling="411"))
    yield "other-progressive", _seed(_small(40, 30, "420", progressive=True))
    yield "other-cmyk", _seed(encoded(photo().resize((20, 20)).convert("CMYK"), "JPEG", optimize=True))
    yield "other-rgb", _seed(encoded(photo().resize((20, 20)), "JPEG", keep_rgb=True, optimize=True))
    yield "other-jfif-2", _seed(data.replace(b"JFIF\0\1", b"JFIF\0\2", 1))
    yield "other-adobe", _seed(_with(data[:2] + data[20:], b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\2"))
    for name, ids in (("rgb", b"RGB"), ("173", b"\1\7\3"), ("127", b"\1\2\7")):
        yield f"other-ids-{name}", _seed(_with_ids(data[:2] + data[20:], ids, ids))
    yield "other-sampling", _seed(data.replace(b"\3\1\x22", b"\3\1\x24", 1))
    yield "other-order", _seed(_with_ids(data, b"\1\2\3", b"\1\3\2"))
    yield "other-tiny", _seed(_small(3, 4, "420", optimize=True), Options(side=9))
    yield "other-narrow", _seed(_small(15, 40, "420", optimize=True))
    yield "other-all-ones", _seed(grey_file(dc=huffman_table([2]), ac=huffman_table([1, 0, 4])))


def _damaged_files() -> Iterator[tuple[str, bytes]]:
    data = _small(40, 30, "420", optimize=True, restart_marker_blocks=2)
    scan = data.index(b"\xff\xda") + 14
    restart = data.index(b"\xff\xd0", scan)
    yield "damaged-cut", _seed(data[: scan + (len(data) - scan) // 2])
    yield "damaged-cut-header", _seed(data[: data.index(b"\xff\xc4") + 9])
    yield "damaged-no-end", _seed(data[:-2])
    yield "damaged-bytes-before-end", _seed(data[:-2] + b"\1\2" + data[-2:])
    yield "damaged-restart-lost", _seed(data[:restart] + data[restart + 2 :])
    yield "damaged-restart-wrong", _seed(data[:restart] + b"\xff\xd3" + data[restart + 2 :])
    yield "damaged-zeros", _seed(data[: scan + 20] + bytes(40) + data[scan + 60 :])
    yield "damaged-greedy", _seed(_greedy(data), Options(size=9, left=32, top=22))
    yield "damaged-html", _seed(b"\xff\xd8\xff<html>404</html>")
    yield "damaged-no-lines", _seed(_sized(data, 40, 0))
    yield "damaged-too-many-lines", _seed(_sized(data, 40, 64))
    yield "damaged-too-few-lines", _seed(_sized(data, 40, 16))
    yield "damaged-no-quantization", _seed(data.replace(b"\xff\xdb", b"\xff\xe5"))
    yield "damaged-no-codes", _seed(data.replace(b"\xff\xc4", b"\xff\xe5"))


def _seed(data: bytes, options: Options | None = None) -> bytes:
    return data + bytes(options or Options(side=21))


def _small(width: int, height: int, subsampling: str, **options: int | bool) -> bytes:
    return plain_jpeg_of(photo().resize((width, height), Image.Resampling.BICUBIC), _name(subsampling), **options)


def _name(subsampling: str) -> str:
    """Return Pillow's name of a sampling, as `4:2:0` for `420`."""
    return ":".join(subsampling) if subsampling.isdigit() else subsampling


def _with(data: bytes, *segments: bytes) -> bytes:
    """Return a JPEG with more segments behind the first one."""
    end = 4 + int.from_bytes(data[4:6], "big")
    return data[:end] + b"".join(segments) + data[end:]


def _with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    picture = photo().resize((30, 40))
    return encoded(picture, "JPEG", optimize=True, exif=exif, comment=b"turned")


def _greedy(data: bytes) -> bytes:
    """Return a JPEG with an early end. Decoders that go on with zeros read the longest codes and values there."""
    longest = bytes(15) + b"\1\x0f"  # a code of 16 bits, for values of 15 bits
    tables = b"\xff\xc4\0\x26" + b"\x00" + longest + b"\x10" + longest
    without_tables = bytearray(data[:2])
    at = 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != 0xC4:
            without_tables += data[at:end]
        at = end
    scan = bytearray(data[at : at + 14])
    scan[6:11:2] = b"\0\0\0"  # all components have the tables of number 0
    return bytes(without_tables) + tables + bytes(scan) + b"\0\xff\xd9"


def _with_ids(data: bytes, frame: bytes, scan: bytes) -> bytes:
    """Return a JPEG whose components have other ids in the frame's header and in the scan's header."""
    changed = bytearray(data)
    at = data.index(b"\xff\xc0") + 10
    changed[at : at + 9 : 3] = frame
    at = data.index(b"\xff\xda") + 5
    changed[at : at + 6 : 2] = scan
    return bytes(changed)


def _sized(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


if __name__ == "__main__":
    main()
