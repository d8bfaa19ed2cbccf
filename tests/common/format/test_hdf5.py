"""HDF5 in files whose reads fail: the error arrives unchanged, and the process survives. The layout of new files."""

from __future__ import annotations

import errno
import io
import random
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from common.errors import StoreUnavailable
from common.format.hdf5 import Dataset, lay_out, open_hdf5

if TYPE_CHECKING:
    from pathlib import Path


class FailingFile(io.RawIOBase):
    """A file that fails after `reads` reads."""

    def __init__(self, path: Path, reads: int, error: Exception) -> None:
        self._file, self._reads, self._error = path.open("rb"), reads, error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._reads -= 1
        if self._reads < 0:
            raise self._error
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "some.h5", "w") as file:
        file["rows"] = np.arange(100_000)
    return tmp_path / "some.h5"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "Input/output error"), StoreUnavailable),
        (StoreUnavailable("the store does not answer"), StoreUnavailable),
        (MemoryError(), MemoryError),
    ],
)
def test_an_error_of_a_read_is_not_taken_for_damage(path: Path, error: Exception, expected: type[Exception]) -> None:
    for reads in range(100):
        with FailingFile(path, reads, error) as failing:
            try:
                with open_hdf5(failing, name="the file") as file:  # type: ignore[arg-type]
                    assert file["rows"][-1] == 99_999
            except expected:
                continue
        break
    assert 5 < reads < 99


def test_a_file_that_is_not_hdf5_is_damage(path: Path) -> None:
    with pytest.raises(OSError, match="signature"), open_hdf5(io.BytesIO(b"no HDF5" * 999), name="the file"):
        pass
    path.write_bytes(path.read_bytes()[:5000])
    with path.open("rb") as opened, pytest.raises(OSError, match="truncated"), open_hdf5(opened, name="the file"):
        pass


def test_an_error_that_is_kept_does_not_crash_the_process_at_its_end(path: Path) -> None:
    # With h5py alone this process ends with SIGSEGV: the traceback keeps HDF5's objects alive after the interpreter.
    program = """
        import sys
        from pathlib import Path
        from common.format.hdf5 import open_hdf5
        from tests.common.format.test_hdf5 import FailingFile
        kept = []
        for reads in range(8):
            try:
                with open_hdf5(FailingFile(Path(sys.argv[1]), reads, ValueError("no")), name="the file") as file:
                    file["rows"][()]
            except ValueError as error:
                kept += [error, kept]
        assert len(kept) > 8
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(path)], timeout=60, check=False)
    assert done.returncode == 0


def some_datasets(generator: random.Random, *, names: list[str]) -> dict[str, Dataset]:
    """Return datasets of texts with no, few or many rows, and no, few or many attributes."""
    return {
        name: Dataset(
            (generator.choice([0, 1, 7, 600]),),
            np.dtype(f"S{generator.choice([1, 9, 100])}"),
            {f"digest {number}": 64 * "a" for number in range(generator.choice([0, 1, 9]))},
        )
        for name in names
    }


@pytest.mark.parametrize(
    "options", [{}, {"user_block_bytes": 512}, {"alignment_threshold": 2048, "alignment_interval": 4096}]
)
def test_hdf5_reads_rows_from_their_offsets_and_all_metadata_lies_before_them(
    options: dict[str, int],
) -> None:
    generator = random.Random(0)
    for datasets_count in range(1, 40):
        names = ["rows", *(f"group/{number}" for number in range(datasets_count))]
        datasets = some_datasets(generator, names=names)
        datasets["rows"] = Dataset((9, 512), np.dtype("<f4"), {})
        attributes = {
            f"attribute {number}": generator.choice([number, "x" * generator.choice([0, 300, 5000, 60_000])])
            for number in range(generator.randrange(40))
        }
        skeleton = lay_out(attributes, datasets, **options)
        assert not any(any(zeros) for offset, zeros in skeleton.metadata.items() if offset)
        rows = {name: generator.randbytes(dataset.size) for name, dataset in datasets.items()}
        parts = skeleton.metadata | {skeleton.offsets[name]: data for name, data in rows.items() if data}
        written = b"".join(parts[offset] for offset in sorted(parts))
        assert len(written) == skeleton.size
        with h5py.File(io.BytesIO(written)) as file:
            assert dict(file.attrs) == attributes
            for name, dataset in datasets.items():
                assert file[name].chunks is None
                assert file[name].shape == dataset.shape
                assert dict(file[name].attrs) == dataset.attributes
                assert file[name][()].tobytes() == rows[name]
        threshold, interval = options.get("alignment_threshold", 1), options.get("alignment_interval", 1)
        assert all(
            skeleton.offsets[name] % interval == 0 for name, dataset in datasets.items() if dataset.size >= threshold
        )


def test_a_file_that_is_larger_than_any_memory_is_laid_out_in_little_memory() -> None:
    datasets = {"a": Dataset((10**12,), np.dtype("S100"), {}), "b": Dataset((10**12, 512), np.dtype("<f4"), {})}
    skeleton = lay_out({"rows": 10**12}, datasets)
    assert skeleton.size == sum(map(len, skeleton.metadata.values())) + 10**12 * (100 + 2048)
    assert sum(map(len, skeleton.metadata.values())) < 16_384
