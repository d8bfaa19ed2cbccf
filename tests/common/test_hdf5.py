"""HDF5 over files that fail: the failure comes through as what it is, and the process lives on."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.errors import StoreUnavailable
from common.hdf5 import new_hdf5, open_hdf5

if TYPE_CHECKING:
    from pathlib import Path


class FailingFile(io.RawIOBase):
    """Holds HDF5, and answers so many reads."""

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
    with new_hdf5(tmp_path / "some.h5") as file:
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
def test_what_a_file_raises_while_it_is_read_is_not_taken_for_damage(
    path: Path, error: Exception, expected: type[Exception]
) -> None:
    for reads in range(100):
        with FailingFile(path, reads, error) as failing:
            try:
                with open_hdf5(failing, name="the file") as file:  # type: ignore[arg-type]
                    assert file["rows"][-1] == 99_999
            except expected:
                continue
        break
    assert 5 < reads < 99


def test_what_is_no_hdf5_is_damage(path: Path) -> None:
    with pytest.raises(OSError, match="signature"), open_hdf5(io.BytesIO(b"no HDF5" * 999), name="the file"):
        pass
    path.write_bytes(path.read_bytes()[:5000])
    with path.open("rb") as opened, pytest.raises(OSError, match="truncated"), open_hdf5(opened, name="the file"):
        pass


def test_a_failure_that_is_kept_does_not_take_the_process_down_when_it_ends(path: Path) -> None:
    # With h5py alone this process ends with SIGSEGV: the traceback keeps HDF5's objects beyond the interpreter's end.
    program = """
        import sys
        from pathlib import Path
        from common.hdf5 import open_hdf5
        from tests.common.test_hdf5 import FailingFile
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
