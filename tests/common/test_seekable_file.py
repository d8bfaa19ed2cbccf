from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.seekable_file import SeekableFile

DATA = bytes(range(100))


class InPieces(SeekableFile):
    """Holds DATA, and gives at most `longest` bytes at a time."""

    def __init__(self, longest: int) -> None:
        super().__init__(len(DATA))
        self._longest = longest

    def read_at(self, start: int, length: int) -> bytes:
        assert 0 < length <= self.size - start
        return DATA[start : start + min(length, self._longest)]


STEPS = st.lists(
    st.tuples(st.integers(0, 150), st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]), st.integers(-1, 150))
)


@given(STEPS, st.integers(1, 120))
def test_a_seekable_file_reads_as_a_file_in_memory_does(steps: list[tuple[int, int, int]], longest: int) -> None:
    file, memory = io.BufferedReader(InPieces(longest), 16), io.BytesIO(DATA)
    for offset, whence, length in steps:
        assert file.seek(offset, whence) == memory.seek(offset, whence)
        assert file.read(length) == memory.read(length)
        assert file.tell() == memory.tell()


def test_a_position_before_the_start_is_the_start() -> None:
    assert InPieces(1).seek(-5) == 0
    assert InPieces(1).seek(-500, os.SEEK_END) == 0


def test_a_subclass_must_say_which_bytes_it_holds() -> None:
    with pytest.raises(NotImplementedError):
        SeekableFile(5).read(1)
