"""The model loads in the background, and a device that hangs does not hold up the worker for ever."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.errors import DeviceUnavailable
from tests.worker.encode.vectors import noise
from worker.encode.batches import BUFFERS
from worker.encode.encoder import Encoder
from worker.encode.model_loading import ModelLoading
from worker.settings import EncodeSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def descriptor() -> Iterator[int]:
    """An empty file in memory."""
    file = os.memfd_create("squares")
    yield file
    os.close(file)


def test_the_batches_are_made_of_the_given_file_before_the_encoder_is_there(tiny_clip: Path, descriptor: int) -> None:
    loading = ModelLoading(
        EncodeSettings(model=str(tiny_clip), device="cpu", batch_size=3), descriptor=descriptor, spare_slots=0
    )
    loading.start()
    batches = loading.batches.result(timeout=60)
    assert (batches.descriptor, batches.slot_count, batches.image_size) == (descriptor, 3 * BUFFERS, 32)
    assert os.fstat(descriptor).st_size == 3 * BUFFERS * 32 * 32 * 3
    encoder = loading.encoder.result(timeout=60)
    assert np.isfinite(encoder.start([noise(3, 32)])()).all()


def test_a_device_that_hangs_while_it_warms_up_is_unavailable_after_the_time_limit(
    tiny_clip: Path, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(Encoder, "warm_up", lambda *_: goes_on.wait(60))
    settings = EncodeSettings(model=str(tiny_clip), device="cpu", encode_timeout_seconds=1)
    loading = ModelLoading(settings, descriptor=descriptor, spare_slots=0)
    loading.start()
    with pytest.raises(DeviceUnavailable, match=r"cpu has not answered for 1 s"):
        loading.encoder.result(timeout=60)
    assert loading.batches.result(timeout=60).image_size == 32
    goes_on.set()


def test_a_model_that_cannot_be_loaded_is_the_error_of_all_that_depends_on_it(descriptor: int) -> None:
    loading = ModelLoading(EncodeSettings(model="/no/such/folder", device="cpu"), descriptor=descriptor, spare_slots=0)
    loading.start()
    for future in (loading.source, loading.batches, loading.encoder):
        assert "no such folder" in str(future.exception(timeout=60))
    assert loading.dtype.result(timeout=60) in {"float32", "bfloat16"}
