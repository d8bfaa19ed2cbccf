"""Functions that make image files: of every format and mode that is decoded, with false headers, or damaged."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

PHOTOS = sorted(path for path in (Path(__file__).parents[2] / "examples" / "photos").iterdir() if path.suffix != ".md")

CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}


def noise(mode: str, width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Return seeded noise. It is the hardest picture for a resize, because every pixel differs from its neighbours."""
    random = np.random.default_rng([seed, width, height])
    if mode == "1":
        return Image.fromarray(random.integers(0, 2, (height, width), dtype=np.uint8) * 255).convert("1")
    if mode == "P":
        image = Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8)).convert("P")
        image.putpalette(random.bytes(768))
        return image
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65_536, (height, width), dtype=np.uint16))
    values = random.integers(0, 256, (height, width, CHANNELS[mode]), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if mode == "L" else values, mode)


def encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own
    file = io.BytesIO()
    # A copy, because saving changes the image, and the next format may not accept the change.
    image.copy().save(file, format_name, **options)
    return file.getvalue()


def photo() -> Image.Image:
    """Return a small photo in RGB, 216 x 144 pixels."""
    with Image.open(PHOTOS[0].with_name("coffee.jpg")) as image:
        return image.convert("RGB")


def every_kind(image: Image.Image) -> dict[str, bytes]:
    """Return an RGB picture as a file of every kind that is decoded, by the name of the kind."""
    turned = image.transpose(Image.Transpose.ROTATE_180)
    grey, alpha = image.convert("L"), image.copy()
    alpha.putalpha(grey)
    palette = image.quantize(64)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    movie: dict[str, Any] = {"save_all": True, "append_images": [turned], "duration": 100}
    return {
        "JPEG": encoded(image, "JPEG"),
        "JPEG 4:4:4": encoded(image, "JPEG", subsampling=0, quality=95),
        "JPEG progressive": encoded(image, "JPEG", progressive=True),
        "JPEG grey": encoded(grey, "JPEG"),
        "JPEG CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "JPEG RGB": encoded(image, "JPEG", keep_rgb=True),
        "JPEG with restart markers": encoded(image, "JPEG", restart_marker_blocks=3),
        "JPEG of two pictures": encoded(image, "MPO", save_all=True, append_images=[turned.copy()]),
        "PNG": encoded(image, "PNG"),
        "PNG grey": encoded(grey, "PNG"),
        "PNG grey and alpha": encoded(alpha.convert("LA"), "PNG"),
        "PNG alpha": encoded(alpha, "PNG"),
        "PNG palette": encoded(palette, "PNG"),
        "PNG palette with transparency": encoded(palette, "PNG", transparency=bytes(range(0, 256, 4))),
        "PNG 1 bit": encoded(image.convert("1"), "PNG"),
        "PNG 16 bit": encoded(deep, "PNG"),
        "PNG animated": encoded(image, "PNG", **movie),
        "GIF": encoded(palette, "GIF"),
        "GIF interlaced, transparent": encoded(palette, "GIF", interlace=1, transparency=3),
        "GIF animated": encoded(palette, "GIF", **movie | {"append_images": [turned.quantize(64)]}),
        "WebP": encoded(image, "WEBP"),
        "WebP lossless": encoded(image, "WEBP", lossless=True),
        "WebP alpha": encoded(alpha, "WEBP"),
        "WebP animated": encoded(image, "WEBP", **movie),
        "BMP": encoded(image, "BMP"),
        "BMP palette": encoded(palette, "BMP"),
        "BMP 1 bit": encoded(image.convert("1"), "BMP"),
        "TIFF": encoded(image, "TIFF"),
        "TIFF LZW": encoded(image, "TIFF", compression="tiff_lzw"),
        "TIFF deflate": encoded(image, "TIFF", compression="tiff_deflate"),
        "TIFF JPEG": encoded(image, "TIFF", compression="jpeg"),
        "TIFF CMYK": encoded(image.convert("CMYK"), "TIFF"),
        "TIFF fax": encoded(image.convert("1"), "TIFF", compression="group4"),
        "TIFF 16 bit": encoded(deep, "TIFF"),
        "TIFF of two pages": encoded(image, "TIFF", save_all=True, append_images=[turned]),
        "AVIF": encoded(image, "AVIF"),
        "AVIF 4:4:4": encoded(image, "AVIF", subsampling="4:4:4", quality=95),
        "AVIF grey": encoded(grey, "AVIF"),
        "AVIF alpha": encoded(alpha, "AVIF"),
        "AVIF animated": encoded(image, "AVIF", **movie),
        "JP2": encoded(image, "JPEG2000"),
        "JP2 lossy": encoded(image, "JPEG2000", irreversible=True, quality_layers=[20], mct=1),
        "JP2 in tiles": encoded(image, "JPEG2000", tile_size=(64, 64)),
        "JP2 alpha": encoded(alpha, "JPEG2000"),
        "JP2 grey": encoded(grey, "JPEG2000"),
        "JP2 16 bit": encoded(deep, "JPEG2000"),
        "JP2 code stream": encoded(image, "JPEG2000", no_jp2=True),
    }


SIXTEEN_BIT = {"PNG 16 bit", "TIFF 16 bit", "JP2 16 bit"}


def announcing(width: int, height: int) -> dict[str, bytes]:
    """Return small files, by kind, whose headers announce this size, or the largest size that the format allows."""
    return {
        "PNG": png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        "JPEG": _jpeg_announcing(width, height, b"\xff\xc0"),
        "JPEG progressive": _jpeg_announcing(width, height, b"\xff\xc2", progressive=True),
        "GIF screen": _patched(encoded(noise("L", 4, 4), "GIF"), {6: struct.pack("<HH", width, height)}),
        "GIF frame": _gif_frame_announcing(width, height),
        "BMP": _patched(encoded(noise("RGB", 4, 4), "BMP"), {18: struct.pack("<ii", width, height)}),
        "BMP from the top": _patched(encoded(noise("RGB", 4, 4), "BMP"), {18: struct.pack("<ii", width, -height)}),
        "TIFF": _tiff_announcing(width, height, None),
        "TIFF LZW": _tiff_announcing(width, height, "tiff_lzw"),
        "WebP animated": _webp_canvas_announcing(max(1, width), max(1, height)),
        "WebP lossless": _webp_lossless_announcing(max(1, min(width, 16_384)), max(1, min(height, 16_384))),
        "WebP": _webp_announcing(min(width, 16_383), min(height, 16_383)),
        "AVIF": _avif_announcing(width, height),
        "JP2": _jpeg_2000_announcing(width, height, no_jp2=False),
        "JP2 code stream": _jpeg_2000_announcing(width, height, no_jp2=True),
        "JPEG XL": _jpeg_xl_announcing(max(1, width), max(1, height)),
    }


def png(header: bytes, *, before_data: bytes = b"", data: bytes | None = None) -> bytes:
    """Return a PNG from the content of its IHDR, chunks before the pixels, and the compressed bytes of the pixels."""
    pixels = zlib.compress(bytes(1000)) if data is None else data
    chunks = [png_chunk(b"IHDR", header), before_data, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _patched(data: bytes, patches: dict[int, bytes]) -> bytes:
    changed = bytearray(data)
    for at, patch in patches.items():
        changed[at : at + len(patch)] = patch
    return bytes(changed)


def _jpeg_announcing(width: int, height: int, marker: bytes, *, progressive: bool = False) -> bytes:
    data = encoded(noise("RGB", 16, 16), "JPEG", progressive=progressive)
    return _patched(data, {data.index(marker) + 5: struct.pack(">HH", height, width)})


def _gif_frame_announcing(width: int, height: int) -> bytes:
    data = encoded(noise("L", 4, 4), "GIF")
    descriptor = data.index(b"," + struct.pack("<HHHH", 0, 0, 4, 4))
    return _patched(data, {descriptor + 5: struct.pack("<HH", width, height)})


def _tiff_announcing(width: int, height: int, compression: str | None) -> bytes:
    data = encoded(noise("RGB", 4, 4), "TIFF", compression=compression)
    directory = struct.unpack_from("<I", data, 4)[0]
    announced = {256: width, 257: height, 278: height}  # ImageWidth, ImageLength, RowsPerStrip
    patches = {}
    for entry in range(struct.unpack_from("<H", data, directory)[0]):
        at = directory + 2 + 12 * entry
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in announced:
            patches[at] = struct.pack("<HHII", tag, 4, 1, announced[tag])
    return _patched(data, patches)


def _webp_canvas_announcing(width: int, height: int) -> bytes:
    """Return an animated WebP with one frame of 4 x 4."""
    still = encoded(noise("RGB", 4, 4), "WEBP")[12:]
    frame = bytes(6) + (3).to_bytes(3, "little") * 2 + bytes([1, 0, 0, 0]) + still
    canvas = bytes([2, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = _webp_chunk(b"VP8X", canvas) + _webp_chunk(b"ANIM", bytes(6)) + _webp_chunk(b"ANMF", frame)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _webp_lossless_announcing(width: int, height: int) -> bytes:
    data = encoded(noise("RGB", 4, 4), "WEBP", lossless=True)
    at = data.index(b"VP8L") + 9  # after the chunk's name, its length and the signature byte
    rest = struct.unpack_from("<I", data, at)[0] >> 28 << 28
    return _patched(data, {at: struct.pack("<I", rest | (height - 1) << 14 | (width - 1))})


def _webp_announcing(width: int, height: int) -> bytes:
    data = encoded(noise("RGB", 16, 16), "WEBP")
    return _patched(data, {data.index(b"VP8 ") + 14: struct.pack("<HH", width, height)})


def _avif_announcing(width: int, height: int) -> bytes:
    data = encoded(noise("RGB", 4, 4), "AVIF")
    return _patched(data, {data.index(b"ispe") + 8: struct.pack(">II", width, height)})


def _jpeg_2000_announcing(width: int, height: int, *, no_jp2: bool) -> bytes:
    data = encoded(noise("RGB", 4, 4), "JPEG2000", no_jp2=no_jp2)
    return _patched(data, {data.index(b"\xff\x4f\xff\x51") + 8: struct.pack(">II", width, height)})


def _jpeg_xl_announcing(width: int, height: int) -> bytes:
    """Return the start of a code stream: sides of 18 bits, and the width not as a ratio."""
    bits = (2 << 1) | (height - 1) << 3 | 2 << (3 + 18 + 3) | (width - 1) << (3 + 18 + 3 + 2)
    return b"\xff\x0a" + bits.to_bytes(6, "little") + bytes(40)


def cut_points(length: int, *, count: int) -> list[int]:
    """Return where to cut a file: at each of its first and last bytes, and at `count` positions between."""
    ends = {*range(min(40, length)), *range(max(0, length - 40), length)}
    return sorted(ends | {int(place) for place in np.linspace(0, length - 1, count)})


def mutations(data: bytes, *, count: int, seed: int) -> list[bytes]:
    """Return `count` seeded variants of a file: bits flipped, bytes set, ranges removed, doubled or zeroed."""
    random = np.random.default_rng(seed)

    def flip_bits(variant: bytearray, at: int) -> None:
        variant[at] ^= 1 << int(random.integers(8))

    def set_byte(variant: bytearray, at: int) -> None:
        variant[at] = int(random.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))

    def remove(variant: bytearray, at: int) -> None:
        del variant[at : at + int(random.integers(1, 40))]

    def double(variant: bytearray, at: int) -> None:
        variant[at:at] = variant[at : at + int(random.integers(1, 40))]

    def zero(variant: bytearray, at: int) -> None:
        end = min(len(variant), at + int(random.integers(1, 40)))
        variant[at:end] = bytes(end - at)

    ways: list[Callable[[bytearray, int], None]] = [flip_bits, flip_bits, set_byte, remove, double, zero]
    variants = []
    for _ in range(count):
        variant = bytearray(data)
        for _ in range(int(random.integers(1, 5))):
            # Half of the damage is in the first bytes, which hold the structure.
            end = len(variant) if random.random() < 0.5 else min(len(variant), 400)
            ways[int(random.integers(len(ways)))](variant, int(random.integers(end)))
        variants.append(bytes(variant))
    return variants
