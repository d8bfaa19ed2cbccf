"""Damage in what is not needed for the pixels does not cost the image, and damage in what is needed does."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from common.format.reasons import Reason
from tests.worker.decode.reference import widest_difference
from tests.worker.images import encoded, every_kind, mutations, photo, png_chunk
from worker.decode.metadata import without_metadata
from worker.decode.preprocess import image_square
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

KINDS = every_kind(photo())
JPEG_BOUND = 2
"""Largest difference (0 to 255) of an ordinary JPEG's square from Pillow's."""

HEADER_END = 8 + 25
"""The end of a PNG's signature and its chunk IHDR."""


def square(data: bytes) -> Tensor:
    return image_square(data, max_pixels=10**7)


def reason(data: bytes) -> Reason:
    with pytest.raises(ImageFailed) as caught:
        square(data)
    return caught.value.reason


def wrong_sum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


TEXT = np.random.default_rng(0).bytes(3 << 20).hex().encode()
"""6 MiB that do not become small when they are compressed."""

ODD_CHUNKS = {
    "tEXt": png_chunk(b"tEXt", b"Comment\0" + TEXT),
    "70 MiB of tEXt": png_chunk(b"tEXt", b"Comment\0" + TEXT * 12),
    "zTXt": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(TEXT)),
    "zTXt of an unknown method": png_chunk(b"zTXt", b"Comment\0\7" + zlib.compress(b"text")),
    "zTXt that is broken": png_chunk(b"zTXt", b"Comment\0\0\1\2\3"),
    "iTXt": png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(TEXT)),
    "iCCP": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(TEXT)),
    "iCCP of an unknown method": png_chunk(b"iCCP", b"profile\0\7" + zlib.compress(b"profile")),
    "iCCP without a name": png_chunk(b"iCCP", b""),
    "eXIf": png_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "cHRM that is short": png_chunk(b"cHRM", b"\0"),
    "gAMA that is short": png_chunk(b"gAMA", b""),
    "sRGB that is short": png_chunk(b"sRGB", b""),
    "pHYs that is short": png_chunk(b"pHYs", b"\0\0"),
    "acTL that is short": png_chunk(b"acTL", b"\0"),
    "fcTL out of order": png_chunk(b"fcTL", bytes(3) + b"\7" + bytes(22)),
    "fdAT without a number": png_chunk(b"fdAT", b"\0"),
    **{
        f"{kind.decode()} with a wrong check sum": wrong_sum(png_chunk(kind, content))
        for kind, content in {
            b"pHYs": bytes(9),
            b"tEXt": b"a\0b",
            b"iCCP": b"profile\0\0" + zlib.compress(b"profile"),
            b"tIME": bytes(7),
            b"vpAg": bytes(9),
            b"eXIf": bytes(20),
            b"bKGD": bytes(6),
            b"sBIT": bytes(3),
        }.items()
    },
}


@pytest.mark.parametrize("name", sorted(ODD_CHUNKS))
@pytest.mark.parametrize("kind", ["PNG", "PNG palette with transparency", "PNG animated"])
def test_a_png_with_odd_chunks_that_decoding_does_not_need_has_its_square(kind: str, name: str) -> None:
    data, expected = KINDS[kind], square(KINDS[kind])
    assert torch.equal(square(data[:HEADER_END] + ODD_CHUNKS[name] + data[HEADER_END:]), expected)
    assert torch.equal(square(data[:-12] + ODD_CHUNKS[name] + data[-12:]), expected)


@pytest.mark.parametrize("kind", ["PNG", "PNG palette"])
@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE"])
def test_a_wrong_check_sum_where_it_matters_is_damage(kind: str, chunk: bytes) -> None:
    data = bytearray(KINDS[kind])
    if chunk not in data:
        pytest.skip("colours need no palette")
    at = data.index(chunk)
    data[at + 4 + int.from_bytes(data[at - 4 : at])] ^= 1
    assert reason(bytes(data)) is Reason.CORRUPT


def test_a_changed_byte_of_the_pixels_is_damage() -> None:
    data = bytearray(KINDS["PNG"])
    data[data.index(b"IDAT") + 2000] ^= 255
    assert reason(bytes(data)) is Reason.CORRUPT


def test_a_png_cut_in_a_comment_is_truncated() -> None:
    data = KINDS["PNG"]
    assert reason(data[:HEADER_END] + ODD_CHUNKS["tEXt"][:-9]) is Reason.TRUNCATED
    assert reason(data[:-12] + ODD_CHUNKS["zTXt"][:3000]) is Reason.TRUNCATED


def test_a_wrong_check_sum_of_the_transparency_costs_the_transparency_only() -> None:
    data = bytearray(KINDS["PNG palette with transparency"])
    at = data.index(b"tRNS")
    data[at + 4 + int.from_bytes(data[at - 4 : at])] ^= 1
    assert torch.equal(square(bytes(data)), square(KINDS["PNG palette"]))


SEGMENTS = {
    "EXIF of no TIFF": (0xE1, b"Exif\0\0" + b"\xff" * 40),
    "EXIF whose directory is a circle": (0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0" + b"\x69\x87\4\0\1\0\0\0\x08\0\0\0" * 2),
    "EXIF that is empty": (0xE1, b"Exif\0\0"),
    "XMP": (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"\xff" * 900),
    "a profile without a number": (0xE2, b"ICC_PROFILE\0"),
    "a profile of the wrong number of parts": (0xE2, b"ICC_PROFILE\0\7\3abc"),
    "pictures of MPF": (0xE2, b"MPF\0" + b"\xff" * 30),
    "pictures of MPF without entries": (0xE2, b"MPF\0II*\0\x08\0\0\0\0\0"),
    "Photoshop": (0xED, b"Photoshop 3.0\x008BIM\4\4\xff\xff\xff"),
    "a comment": (0xFE, b"\xff" * 60_000),
}


@pytest.mark.parametrize("name", sorted(SEGMENTS))
@pytest.mark.parametrize("kind", ["JPEG", "JPEG progressive", "JPEG CMYK", "JPEG RGB", "JPEG grey"])
def test_a_jpeg_with_damaged_metadata_has_its_square(kind: str, name: str) -> None:
    marker, content = SEGMENTS[name]
    segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content
    for times in (1, 3):
        data = KINDS[kind][:2] + segment * times + KINDS[kind][2:]
        # libjpeg-turbo refuses some of them, and then Pillow makes the square.
        assert widest_difference(square(data).numpy(), square(KINDS[kind]).numpy()) <= JPEG_BOUND, times


@pytest.mark.parametrize("format_name", ["TIFF", "WEBP", "AVIF"])
def test_damaged_exif_xmp_and_profiles_cost_no_image(format_name: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    whole = encoded(photo(), format_name, exif=exif, icc_profile=b"profile" * 9, xmp=b"<x/>" * 99)
    parts = (b"profile", b"a description", *((b"<x/>",) if format_name != "TIFF" else ()))
    expected = square(encoded(photo(), format_name))
    assert torch.equal(square(whole), expected)
    for part in parts:
        at = whole.index(part)
        assert torch.equal(square(whole[:at] + b"\xff" * 8 + whole[at + 8 :]), expected), part


TIFF_TAGS = {0x8769: 4, 0x8825: 4, 0xA005: 4, 700: 1, 34_675: 7, 33_723: 4, 34_377: 1, 270: 2, 305: 2}
"""Tags without pixels, and their types."""


@pytest.mark.parametrize("value", [8, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("tag", TIFF_TAGS)
@pytest.mark.parametrize("kind", ["TIFF", "TIFF LZW"])
def test_a_tiff_whose_metadata_points_anywhere_has_its_square(kind: str, tag: int, value: int) -> None:
    data = with_tag(KINDS[kind], struct.pack("<HHII", tag, TIFF_TAGS[tag], 1 if tag > 0x8000 else 9000, value))
    assert torch.equal(square(data), square(KINDS[kind]))


def with_tag(data: bytes, entry: bytes) -> bytes:
    """Return a little-endian TIFF with one more entry in its directory, which moves to the end of the file."""
    directory = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, directory)[0]
    entries = [data[at : at + 12] for at in range(directory + 2, directory + 2 + 12 * count, 12)] + [entry]
    entries.sort(key=lambda each: struct.unpack_from("<H", each)[0])
    data += bytes(len(data) % 2)
    moved = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + moved


def test_an_avif_with_exif_of_no_tiff_has_its_square() -> None:
    data = encoded(photo(), "AVIF", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    at = data.rindex(b"MM\0*")
    assert torch.equal(square(data[:at] + b"junk" + data[at + 4 :]), square(KINDS["AVIF"]))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_file_without_its_metadata_is_the_same_picture_and_not_longer(kind: str) -> None:
    for data in (KINDS[kind], bytearray(KINDS[kind]), memoryview(KINDS[kind])):
        left = without_metadata(data)
        assert len(left) <= len(data)
        assert bytes(without_metadata(left)) == bytes(left)


def test_any_bytes_pass_through_without_an_error() -> None:
    for number, (_, data) in enumerate(sorted(KINDS.items())):
        for variant in [*mutations(data, count=20, seed=number), data[:9], data[:30], b""]:
            assert len(without_metadata(variant)) <= len(variant)
