"""The compiled decoder returns the pixels of libjpeg-turbo and torch, bit for bit, or leaves the file to them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.worker.images import PHOTOS, cut_points, encoded, every_kind, mutations, noise, photo
from worker.decode.geometry import square_geometry
from worker.decode.plain_jpeg import is_available, plain_square
from worker.decode.plain_jpeg.tests.fuzz_inputs import SEEDS, is_accepted
from worker.decode.plain_jpeg.tests.plain_jpegs import (
    PLAIN_KINDS,
    compiled_square,
    grey_file,
    huffman_table,
    library_square,
    plain_files,
    plain_jpeg_of,
)
from worker.decode.preprocess import image_square

needs_compiled = pytest.mark.skipif(not is_available(), reason="no C compiler at installation, or no AVX2")

SOURCE = Path(__file__).parents[1] / "plain_jpeg.c"

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "grey")


def test_it_is_available_on_every_machine_with_gcc_and_avx2() -> None:
    flags = Path("/proc/cpuinfo").read_text("utf-8")
    has_both = platform.machine() == "x86_64" and "avx2" in flags and shutil.which("gcc") is not None
    assert is_available() or not has_both


@needs_compiled
@pytest.mark.parametrize("size", [224, 336])
@pytest.mark.parametrize("path", [path for path in PHOTOS if path.suffix == ".jpg"], ids=lambda path: path.name)
def test_every_photo_has_the_libraries_pixels_or_is_left_to_them(path: Path, size: int) -> None:
    data = path.read_bytes()
    compiled = compiled_square(data, size=size)
    with Image.open(path) as image:
        is_plain = image.mode in {"RGB", "L"} and "progressive" not in image.info
    assert (compiled is not None) == is_plain
    if compiled is not None:
        assert np.array_equal(compiled, library_square(data, size=size))


@needs_compiled
@given(
    width=st.integers(16, 400),
    height=st.integers(16, 400),
    subsampling=st.sampled_from(SUBSAMPLINGS),
    quality=st.integers(1, 100),
    restart_blocks=st.sampled_from([0, 0, 1, 7]),
    is_smooth=st.booleans(),
    is_optimized=st.booleans(),
    size=st.sampled_from([32, 100, 224]),
)
@settings(deadline=None, max_examples=300)
def test_any_plain_file_has_the_libraries_pixels(
    *,
    width: int,
    height: int,
    subsampling: str,
    quality: int,
    restart_blocks: int,
    is_smooth: bool,
    is_optimized: bool,
    size: int,
) -> None:
    picture = photo().resize((width, height)) if is_smooth else noise("RGB", width, height)
    optimize = is_optimized and is_smooth  # Pillow's buffer is too small for noise with optimized codes
    data = plain_jpeg_of(picture, subsampling, quality=quality, optimize=optimize, restart_marker_blocks=restart_blocks)
    compiled = compiled_square(data, size=size)
    assert compiled is not None
    assert np.array_equal(compiled, library_square(data, size=size))


@needs_compiled
@pytest.mark.parametrize(
    ("width", "height"), [(6600, 4900), (700, 2700), (2800, 710), (5000, 17), (17, 5000), (16, 16)]
)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_extremes_of_shape_have_the_libraries_pixels(width: int, height: int, subsampling: str) -> None:
    data = plain_jpeg_of(photo().resize((width, height), Image.Resampling.BILINEAR), subsampling)
    compiled = compiled_square(data)
    assert compiled is not None
    assert np.array_equal(compiled, library_square(data))


@needs_compiled
def test_weights_have_as_many_bits_after_the_binary_point_as_torchs() -> None:
    data = plain_jpeg_of(photo().resize((5000, 5200), Image.Resampling.BILINEAR), "4:2:0")
    for size in (8, 16, 24):  # scales of 625, 312 and 208, on both sides of the limit of the number of bits
        compiled = compiled_square(data, size=size)
        assert compiled is not None
        assert np.array_equal(compiled, library_square(data, size=size))


@needs_compiled
def test_only_plain_files_are_taken() -> None:
    pixels = np.asarray(photo())
    files = {kind: data for kind, data in every_kind(photo()).items() if kind.startswith("JPEG")}
    files |= {
        f"JPEG {sampling}": simplejpeg.encode_jpeg(pixels, colorsubsampling=sampling)
        for sampling in ("440", "411", "422", "420", "444")
    }
    files["JPEG of 15 x 100"] = encoded(photo().resize((15, 100)), "JPEG")
    taken = {kind for kind, data in files.items() if compiled_square(data) is not None}
    assert taken == PLAIN_KINDS | {"JPEG 422", "JPEG 420", "JPEG 444"}


LONGEST = [1] * 15
"""One code of each length from 1 to 15 bits. At most two codes of 16 bits can follow."""


@needs_compiled
@pytest.mark.parametrize("counts", [[1], [1, 1], [1, 0, 3], [*LONGEST, 1]], ids=str)
def test_a_huffman_table_without_a_code_of_all_ones_is_taken(counts: list[int]) -> None:
    dc = huffman_table(counts[:9])
    data = grey_file(dc=dc, ac=huffman_table(counts))
    compiled = compiled_square(data)
    assert compiled is not None
    assert np.array_equal(compiled, library_square(data))


@needs_compiled
@pytest.mark.parametrize("counts", [[2], [1, 2], [1, 0, 4], [*LONGEST, 2], [3], [1, 5]], ids=str)
def test_a_huffman_table_with_a_code_of_all_ones_is_left_to_the_libraries(counts: list[int]) -> None:
    files = [grey_file(dc=huffman_table([1]), ac=huffman_table(counts))]
    if sum(counts) <= 12:
        files.append(grey_file(dc=huffman_table(counts), ac=huffman_table([1])))
    for data in files:
        assert compiled_square(data) is None
        with pytest.raises(ValueError, match="Huffman"):
            library_square(data)


@needs_compiled
@pytest.mark.parametrize("version", [0, 2])
def test_another_version_of_jfif_is_left_to_the_libraries(version: int) -> None:
    data = bytearray(plain_files()["JPEG"])
    data[data.index(b"JFIF\0") + 5] = version
    assert compiled_square(bytes(data), height=144, width=216) is None


@needs_compiled
@pytest.mark.parametrize("sampling", [0x00, 0x10, 0x01, 0x55])
def test_an_invalid_sampling_is_left_to_the_libraries(sampling: int) -> None:
    data = bytearray(plain_files()["JPEG grey"])
    data[data.index(b"\xff\xc0") + 11] = sampling
    assert compiled_square(bytes(data), height=144, width=216) is None


@needs_compiled
def test_a_cut_file_is_left_to_the_libraries() -> None:
    for kind, data in plain_files().items():
        for end in cut_points(len(data), count=50):
            assert compiled_square(data[:end], height=144, width=216) is None, (kind, end)


@needs_compiled
def test_a_file_is_left_to_the_libraries_if_they_read_another_size() -> None:
    data = plain_files()["JPEG"]
    assert compiled_square(data, height=144, width=216) is not None
    assert compiled_square(data, height=145, width=216) is None
    assert compiled_square(data, height=144, width=215) is None


@needs_compiled
@pytest.mark.parametrize("kind", sorted(plain_files()))
def test_a_damaged_file_has_the_libraries_pixels_if_they_accept_it_and_else_none(kind: str) -> None:
    taken = 0
    for data in mutations(plain_files()[kind], count=1500, seed=7):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            continue
        if height * width > 10**6 or max(height, width) > 8 * min(height, width):
            continue
        compiled = compiled_square(data, height=height, width=width)
        if compiled is not None:
            taken += 1
            assert np.array_equal(compiled, library_square(data))  # raises ValueError for a damaged file
    assert taken > 20


@needs_compiled
def test_every_seed_of_the_fuzzer_has_the_libraries_pixels_or_is_left_to_them() -> None:
    accepted = {path.name: is_accepted(path.read_bytes()) for path in SEEDS.iterdir()}  # raises if they differ
    refused = {name for name, accepts in accepted.items() if not accepts}
    assert {name for name in accepted if name.startswith(("other-", "damaged-"))} <= refused
    assert not [name for name in refused if not name.startswith(("other-", "damaged-", "found-"))]


def test_without_the_compiled_decoder_the_libraries_make_the_same_square(monkeypatch: pytest.MonkeyPatch) -> None:
    squares = [image_square(data, max_pixels=10**6) for data in plain_files().values()]
    monkeypatch.setattr("worker.decode.plain_jpeg.square._library", None)
    assert not is_available()
    for square, data in zip(squares, plain_files().values(), strict=True):
        assert torch.equal(square, image_square(data, max_pixels=10**6))


@needs_compiled
def test_it_uses_only_the_memory_that_it_asks_for() -> None:
    given_out: list[tuple[bytearray, int]] = []

    def buffer(size: int) -> bytearray:
        given_out.append((bytearray(b"\xa5" * (size + 4096)), size))
        return given_out[-1][0]

    for width, height in ((16, 16), (1024, 683), (3000, 2000), (60, 1000), (5000, 40)):
        for subsampling in ("4:4:4", "4:2:0"):
            data = plain_jpeg_of(photo().resize((width, height)), subsampling)
            geometry = square_geometry(height=height, width=width, size=224)
            square = plain_square(data, height=height, width=width, geometry=geometry, buffer=buffer)
            assert square is not None
    for memory, size in given_out:
        assert memory[size:] == b"\xa5" * 4096
    with pytest.raises(ValueError, match="are not enough"):
        plain_square(data, height=40, width=5000, geometry=geometry, buffer=lambda size: bytearray(size - 1))


@pytest.mark.slow
@needs_compiled
@pytest.mark.timeout(600)
def test_no_damaged_file_causes_an_access_out_of_bounds(tmp_path: Path) -> None:
    """Decodes damaged files under GCC's sanitizers of addresses and undefined behaviour: a finding ends the process."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc here")
    empty, library = tmp_path / "empty.c", tmp_path / "sanitized.so"
    empty.touch()
    command = [compiler, "-O1", "-g", "-shared", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    trial = subprocess.run([*command, str(empty), "-o", str(library)], capture_output=True, text=True, check=False)
    if trial.returncode:
        pytest.skip(f"no sanitizers here: {trial.stderr[-200:]}")
    subprocess.run([*command, str(SOURCE), "-o", str(library)], check=True)
    runtime = subprocess.check_output([compiler, "-print-file-name=libasan.so"], text=True).strip()
    environment = os.environ | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    fuzz = [sys.executable, "-m", "worker.decode.plain_jpeg.tests.plain_jpegs", str(library)]
    root = Path(__file__).parents[4]
    fuzzing = subprocess.run(fuzz, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert fuzzing.returncode == 0, fuzzing.stderr[-3000:]
    assert "5000 files" in fuzzing.stdout
