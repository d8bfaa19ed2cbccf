"""python -m worker.decoders.server: starts the decoders of one worker and replaces each decoder that dies.

It imports the libraries once and forks the decoders, so that all of them share the libraries' memory. The decoders end
when the worker ends, because the worker holds the other ends of their sockets.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from worker.child_process import die_with_parent
from worker.decoders.link import Connection, Died, reports_to_packets
from worker.decoders.settings import DecoderSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Decode = Callable[[Connection, int], None]
    """Works for a connection until the worker closes it; takes the decoder's generation too."""


def serve(connections: Sequence[Connection], decode: Decode) -> None:
    """Keep one decoder running for each connection until the worker closes all of them."""
    generations = [0] * len(connections)
    running = {_fork(connection, 0, decode): number for number, connection in enumerate(connections)}
    while running:
        process, status = os.wait()
        number = running.pop(process)
        exit_code = os.waitstatus_to_exitcode(status)
        if exit_code == os.EX_OK:
            continue  # the worker has closed the connection
        with suppress(OSError):  # the worker has just closed the connection, and the next decoder finds it closed
            for packet in reports_to_packets([Died(exit_code)]):
                connections[number].link.send(packet)
        generations[number] += 1
        running[_fork(connections[number], generations[number], decode)] = number


def _fork(connection: Connection, generation: int, decode: Decode) -> int:
    """Start a decoder and return its process id."""
    server = os.getpid()
    process = os.fork()
    if process:
        return process
    exit_code = os.EX_SOFTWARE
    try:
        die_with_parent(server)
        # C libraries print warnings about damaged images, but the warnings do not say which image it is.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        decode(connection, generation)
        exit_code = os.EX_OK
    except (BrokenPipeError, ConnectionResetError):  # the worker has closed the connection
        exit_code = os.EX_OK
    finally:
        # Even after an error, the forked process must not continue with the server's code.
        os._exit(exit_code)


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve the worker that gave these arguments.

    They are the worker's process id, the decoders' settings in JSON, the file descriptor of the memory for squares, and
    for each decoder the file descriptors of its socket and of its page.
    """
    worker_process, settings, squares, *descriptors = arguments
    die_with_parent(int(worker_process))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the worker too, and the worker ends the decoders
    # Without the garbage collector the import is faster (see worker.encode.model_loading), and the frozen objects stay
    # in memory that the decoders share.
    gc.disable()
    # Imported here, after `die_with_parent`: the import takes seconds, in which the worker may end.
    from worker.decoders.process import work  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    numbers = map(int, descriptors)
    serve(
        [Connection(socket.socket(fileno=link), page) for link, page in zip(numbers, numbers, strict=True)],
        partial(work, settings=DecoderSettings(**json.loads(settings)), squares=int(squares)),
    )
    os._exit(os.EX_OK)


if __name__ == "__main__":
    main(sys.argv[1:])
