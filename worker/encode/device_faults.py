"""Turns the errors of a device that fails into the program's own. torch's errors become ours here."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from common.errors import DeviceUnavailable, ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORDS = (
    "cuda error",
    "cuda driver",
    "cuda unknown error",
    "cuda gpus",
    "cudagetdevicecount",
    "cublas",
    "cudnn",
    "nvidia driver",
)
"""Words of errors that torch raises as RuntimeError when a GPU, its driver or one of its libraries fails."""


@contextmanager
def faults_of(device_name: str) -> Iterator[None]:
    """Raise DeviceUnavailable with the device's name when the device fails in the block.

    Raises ResourceExhausted when its memory is too small. Other errors pass.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ResourceExhausted(f"the memory of {device_name} is too small: {first_line(error)}") from error
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        if not _is_of_device(error):
            raise
        raise DeviceUnavailable(
            f"{device_name} failed: {first_line(error)}; the chunk can be computed on another node; if this node fails "
            "again, look at its kernel log and at nvidia-smi"
        ) from error


def does_not_answer(device_name: str, seconds: float) -> DeviceUnavailable:
    """Return the error for a device that takes longer than `seconds`, the limit, for one batch or to get ready."""
    return DeviceUnavailable(
        f"{device_name} has not answered for {seconds:g} s (EMBEDDER_ENCODE_TIMEOUT_SECONDS), so it may hang; the "
        "chunk can be computed on another node"
    )


def first_line(error: BaseException) -> str:
    """Return what an error of torch says, without its advice for debugging."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def _is_of_device(error: Exception) -> bool:
    if isinstance(error, torch.AcceleratorError | torch.cuda.DeferredCudaCallError):
        return True
    text = str(error).lower()
    return any(word in text for word in _WORDS)
