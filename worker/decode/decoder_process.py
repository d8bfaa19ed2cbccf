"""One decoder: answers the worker's requests, one image at a time."""

from __future__ import annotations

import mmap
import signal
import traceback
from typing import TYPE_CHECKING

import numpy as np
import torch

from worker.decode.decoder_link import (
    MESSAGE_BYTES,
    Bug,
    Done,
    Failed,
    Large,
    NoMemory,
    Ready,
    Request,
    answer_to_message,
)
from worker.decode.preprocess import image_square
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from worker.decode.decoder_link import Answer, Connection

REAL_SECONDS_PER_CPU_SECOND = 20
"""Limit on an image's time by the clock, as a multiple of the limit on its CPU time. It allows for a busy machine."""


def answer_requests(connection: Connection, generation: int, *, timeout_seconds: float) -> None:
    """Decode images until the worker closes the connection. An image may take `timeout_seconds` of CPU time."""
    torch.set_num_threads(1)
    memory = memoryview(mmap.mmap(connection.memory, 0))
    connection.link.send(answer_to_message(Ready(generation)))
    while message := connection.link.recv(MESSAGE_BYTES):
        request = Request.from_message(message)
        if request.generation != generation:
            continue
        # Neither signal has a handler, so the kernel ends this process even if native code does not return.
        signal.setitimer(signal.ITIMER_PROF, timeout_seconds)
        signal.setitimer(signal.ITIMER_REAL, timeout_seconds * REAL_SECONDS_PER_CPU_SECOND)
        answer = _decode(request, memory)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.link.send(answer_to_message(answer))


def _decode(request: Request, memory: memoryview) -> Answer:
    """Replace the image in `memory` by its square, and return what happened."""
    try:
        square = image_square(
            memory[: request.length],
            rotation=request.rotation,
            size=request.size,
            max_pixels=request.max_pixels,
            may_be_large=request.may_be_large,
        ).numpy()  # uint8 (size, size, 3)
    except ImageFailed as failed:
        return Failed(failed.reason, failed.detail)
    except LargeImage:
        return Large()
    except MemoryError:
        return NoMemory()
    except Exception:  # noqa: BLE001 - the worker raises an error with this traceback
        return Bug(traceback.format_exc())
    np.copyto(np.frombuffer(memory[: square.nbytes], np.uint8).reshape(square.shape), square)
    return Done()
