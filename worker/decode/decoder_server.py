"""python -m worker.decode.decoder_server: the decoders of one worker, as processes that may crash.

It imports what they need and forks them, so that they share it, and forks another where one has died. They end when
the worker does, which holds the other ends of their sockets.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from worker.decode.decoder_link import MESSAGE_BYTES, Answer, Kind, Request
from worker.memory import keep_small_blocks
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from collections.abc import Sequence

REAL_SECONDS_PER_CPU_SECOND = 20
"""How much longer an image may take by the clock than in CPU time, on a machine that is busy with other things."""

_PR_SET_PDEATHSIG = 1
"""From Linux's prctl.h."""


class Seat(NamedTuple):
    """What a decoder has, and the one that takes its place."""

    link: socket.socket
    memory: int
    """Descriptor of the memory shared with the worker."""
    timeout_seconds: float
    """CPU time for one image."""


def serve(seats: Sequence[Seat]) -> None:
    """Keep a decoder on each seat until the worker has gone."""
    generations = [0] * len(seats)
    sitting = {_fork(seat, 0): number for number, seat in enumerate(seats)}
    while sitting:
        process, status = os.wait()
        number = sitting.pop(process)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            continue  # the worker has gone
        with suppress(OSError):  # it has gone meanwhile, as the next decoder will find
            seats[number].link.send(Answer(Kind.DIED, str(-code)).to_message())
        generations[number] += 1
        sitting[_fork(seats[number], generations[number])] = number


def _fork(seat: Seat, generation: int) -> int:
    process = os.fork()
    if process:
        return process
    code = os.EX_SOFTWARE
    try:
        _die_with_parent()
        # What C libraries write of damaged files, nobody could match with an image.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _decode_until_the_end(seat, generation)
        code = os.EX_OK
    except (BrokenPipeError, ConnectionResetError):  # the worker has gone
        code = os.EX_OK
    finally:
        # Whatever happens, a forked process must not go on in its parent's place.
        os._exit(code)


def _decode_until_the_end(seat: Seat, generation: int) -> None:
    memory = memoryview(mmap.mmap(seat.memory, 0))
    seat.link.send(Answer(Kind.READY, str(generation)).to_message())
    while message := seat.link.recv(MESSAGE_BYTES):
        request = Request.from_message(message)
        if request.generation != generation:
            continue
        # Neither signal has a handler, so it ends this process even where native code does not return.
        signal.setitimer(signal.ITIMER_PROF, seat.timeout_seconds)
        signal.setitimer(signal.ITIMER_REAL, seat.timeout_seconds * REAL_SECONDS_PER_CPU_SECOND)
        answer = _answer(request, memory)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        seat.link.send(answer.to_message())


def _answer(request: Request, memory: memoryview) -> Answer:
    # Imported before the fork.
    import numpy as np  # noqa: PLC0415

    from worker.decode.preprocess import image_square  # noqa: PLC0415

    try:
        square = image_square(
            memory[: request.length],
            rotation=request.rotation,
            size=request.size,
            max_pixels=request.max_pixels,
            may_be_large=request.may_be_large,
        ).numpy()  # (size, size, 3)
    except ImageFailed as failed:
        return Answer(Kind.FAILED, f"{failed.reason} {failed.detail}")
    except LargeImage:
        return Answer(Kind.LARGE)
    except MemoryError:
        return Answer(Kind.NO_MEMORY)
    except Exception:  # noqa: BLE001 - raised again by the worker
        return Answer(Kind.BUG, traceback.format_exc())
    np.copyto(np.frombuffer(memory[: square.nbytes], np.uint8).reshape(square.shape), square)
    return Answer(Kind.SQUARE)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve as `Decoders` asks for: CPU seconds for an image, the worker's process, and socket and memory of each."""
    timeout_seconds, worker_process, *descriptors = arguments
    _die_with_parent()
    if os.getppid() != int(worker_process):
        os._exit(os.EX_OK)  # it had gone before
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker gets it too
    keep_small_blocks()
    # See worker.model_loading; and pages that are not looked through stay shared.
    gc.disable()
    try:
        import torch  # noqa: PLC0415 - only now, since the worker may be gone or stopped before

        import worker.decode.preprocess  # noqa: F401, PLC0415

        gc.freeze()
        gc.enable()
        torch.set_num_threads(1)
        numbers = map(int, descriptors)
        serve(
            [
                Seat(socket.socket(fileno=link), memory, float(timeout_seconds))
                for link, memory in zip(numbers, numbers, strict=True)
            ]
        )
    except Exception as error:  # noqa: BLE001 - where memory is refused, an import raises anything
        sys.exit(f"no decoders: {type(error).__name__}: {error}")
    os._exit(os.EX_OK)


if __name__ == "__main__":
    main(sys.argv[1:])
