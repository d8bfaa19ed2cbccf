"""A double of torch.cuda that computes on the CPU, at once and in order. It has no graphs."""

from __future__ import annotations

import torch

CUDAGraph = object
stream, current_stream = torch.cpu.stream, torch.cpu.current_stream


class Stream(torch.cpu.Stream):
    def __init__(self, _: torch.device) -> None:
        super().__init__()


class Event(torch.cpu.Event):
    def __init__(self, *, blocking: bool = False) -> None:  # noqa: ARG002 - nothing has to be waited for
        super().__init__()


class graph:  # noqa: N801 - torch's name
    """A capture that goes wrong, and ends with an error that does not say why, as torch's does."""

    def __init__(self, _: object, *, stream: Stream, capture_error_mode: str) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        try:
            raise RuntimeError("CUDA error: this device has no graphs\nCompile with TORCH_USE_CUDA_DSA")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def empty_cache() -> None:
    pass


def synchronize() -> None:
    pass
