"""Bytes that are no readable image are named, and formats that a plugin reads are read where it is installed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image

from common.format.reasons import Reason
from tests.worker.images import encoded, photo
from worker.decode.preprocess import image_square
from worker.rows import ImageFailed

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + b"\0\0\0\x0cmeta\0\0\0\0"
JPEG_XL = b"\xff\x0a" + bytes(60)
JPEG_XL_IN_BOXES = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "

NAMES = {
    b"": "no bytes",
    bytes(5000): "zeros",
    b"<!doctype html><html><body>gone</body></html>": "an HTML page",
    b"\n\n  <html lang='en'>": "an HTML page",
    "\ufeff<!DOCTYPE html>".encode(): "an HTML page",
    '<html lang="fr">é</html>'.encode("utf-16"): "an HTML page",
    b'<svg xmlns="http://www.w3.org/2000/svg"/>': "an SVG drawing",
    b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg width="9"/>': "an SVG drawing",
    b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>': "an XML document",
    b'{"error": "not found"}': "a JSON document",
    b"[1, 2]": "a JSON document",
    b"404 page not found\n": "a text",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "a pointer of Git LFS",
    b"data:image/png;base64,iVBORw0KGgo": "the text of an image in base64",
    b"/9j/4AAQSkZJRgABAQ": "the text of an image in base64",
    b"%PDF-1.7\n": "a PDF document",
    b"%!PS-Adobe-3.0 EPSF-3.0\n": "a PostScript document",
    b"8BPS\0\1" + bytes(100): "a Photoshop image",
    b"\0\0\1\0\1\0\x10\x10" + bytes(100): "an icon (ICO)",
    b"PK\3\4" + bytes(100): "a ZIP archive or an Office document",
    b"\x1f\x8b\x08" + bytes(20): "gzip data",
    b"P6\n2 2 255\n" + bytes(12): "a PNM image",
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom": "a video",
    b"\0\0\0\x14ftypqt  \0\0\0\0qt  ": "a video",
    b"\x1aE\xdf\xa3" + bytes(40): "a video (Matroska or WebM)",
    b"RIFF\x40\0\0\0AVI LIST" + bytes(56): "a video (AVI)",
    b"\0\0\0\x18ftypcrx \0\0\0\1crx isom": "a camera's raw image",
    bytes(128) + b"DICM" + bytes(50): "a DICOM image",
    b"photo.jpg".ljust(257, b"\0") + b"ustar\x0000" + bytes(300): "a tar archive",
    b"MM\0+\0\x08\0\0" + bytes(60): "a BigTIFF with the high byte first, which Pillow does not read",
    HEIC: "a HEIC image; install pillow-heif to read it",
    JPEG_XL: "a JPEG XL image; install pillow-jxl-plugin to read it",
    JPEG_XL_IN_BOXES: "a JPEG XL image; install pillow-jxl-plugin to read it",
}


@pytest.mark.parametrize("data", NAMES, ids=lambda data: repr(data[:16]))
def test_bytes_that_are_no_readable_image_are_named(data: bytes) -> None:
    with pytest.raises(ImageFailed) as caught:
        image_square(data, max_pixels=10**7)
    assert caught.value.reason is Reason.NOT_AN_IMAGE
    assert caught.value.detail.startswith(NAMES[data])
    assert not data or f"{len(data)} bytes that start with" in caught.value.detail


@pytest.mark.parametrize("data", [b"\x01\x02\x03\xfe" * 9, b"BM" + bytes(3)])
def test_bytes_of_an_unknown_kind_are_shown_without_a_name(data: bytes) -> None:
    with pytest.raises(ImageFailed) as caught:
        image_square(data, max_pixels=10**7)
    assert caught.value.detail.startswith(f"{len(data)} bytes that start with")


STAND_IN = """
    # A plugin as the real ones are: a module that teaches Pillow a format. Its pixels are those of a PNG in the file.
    import io
    from PIL import Image, ImageFile

    class File(ImageFile.ImageFile):
        format = "{format_name}"

        def _open(self):
            data = self.fp.read()
            self._inner = Image.open(io.BytesIO(data[data.index(b"\\x89PNG"):]))
            self._size, self._mode, self.tile = self._inner.size, self._inner.mode, []

        def load(self):
            self.im = self._inner.convert(self._mode).im
            return super(ImageFile.ImageFile, self).load()

    def register():
        Image.register_open(File.format, File, lambda start: start.startswith({start}))
"""

REGISTERS_ON_IMPORT = "\nregister()\n"
REGISTERS_WHEN_ASKED = """
def register_heif_opener(*, thumbnails, depth_images, aux_images, decode_threads):
    assert not thumbnails and not depth_images and not aux_images
    assert decode_threads == 1
    register()
"""


@pytest.mark.parametrize(
    ("module", "format_name", "registers", "head"),
    [
        ("pillow_heif", "HEIF", REGISTERS_WHEN_ASKED, HEIC),
        ("pi_heif", "HEIF", REGISTERS_WHEN_ASKED, HEIC),
        # A size header of 216 x 144 pixels: it is not small, the height has 9 bits, no ratio, the width has 9 bits.
        ("pillow_jxl", "JXL", REGISTERS_ON_IMPORT, b"\xff\x0a" + (143 << 3 | 215 << 17).to_bytes(8, "little")),
    ],
)
def test_a_plugin_that_is_installed_is_loaded_when_such_an_image_comes(
    tmp_path: Path, module: str, format_name: str, registers: str, head: bytes
) -> None:
    source = textwrap.dedent(STAND_IN).format(format_name=format_name, start=head[:8])
    (tmp_path / f"{module}.py").write_text(source + registers)
    (tmp_path / "image").write_bytes(head + encoded(photo(), "PNG"))
    program = f"""
        import sys
        from pathlib import Path
        import numpy as np
        from worker.decode.preprocess import image_square
        from worker.rows import ImageFailed
        data = Path(sys.argv[1]).read_bytes()
        assert {module!r} not in sys.modules
        np.save(sys.argv[2], image_square(data, max_pixels=216 * 144).numpy())
        try:
            image_square(data, max_pixels=216 * 144 - 1)
        except ImageFailed as failed:
            print(failed.reason)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "image"), str(tmp_path / "square.npy")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "too_many_pixels\n"), done.stderr
    expected = image_square(encoded(photo(), "PNG"), max_pixels=10**7).numpy()
    assert np.array_equal(np.load(tmp_path / "square.npy"), expected)


def test_an_avif_is_decoded_by_one_thread() -> None:
    data = encoded(photo().resize((2000, 1500)), "AVIF", speed=10)
    before = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    with Image.open(io.BytesIO(data)) as image:
        assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1
        image.load()
        assert len(os.listdir("/proc/self/task")) <= before  # noqa: PTH208
