"""The query program as an object: a process that turns texts and images into vectors, and URLs into small pictures."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np

from common import errors
from common.errors import ConfigError, DataError, EmbedderError, ExitCode, QueryRefused, TemporaryError
from common.exit_policy import container_exit_code, explain_exit_code
from common.logs import log, parse_line, printable
from common.process.frames import BrokenFrame, Frame, read_frame, write_frame
from embedder.query.identity import QueryModel, check_same_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from common.format.provenance import Provenance
    from embedder.local.programs import Programs

MAX_IMAGE_BYTES = 64 << 20
"""Size in bytes of the largest image that is sent as a query."""

MAX_TEXT_CHARS = 10_000
"""Length of the longest text. A model reads 77 tokens of it, some fifty words."""

MAX_ANSWER_BYTES = 16 << 20
"""Size in bytes of the largest answer: a picture."""

GRACE_SECONDS = 3.0
"""Time in seconds that the program has to end after its input has ended, before it is killed."""

LAST_LINES = 3
"""Number of lines of a program that broke off that are shown."""


class Picture(NamedTuple):
    data: bytes
    media_type: str


class _Asked(NamedTuple):
    answer: Future[Any]
    is_picture: bool


class QueryProgram:
    """Starts the query program. Every method may be called from any thread, and returns at once.

    Queries may be asked before `use_model`, and wait for it. The futures raise QueryRefused for a query that cannot be
    answered, ModelError and SourceUnavailable where there is no model, FingerprintMismatch where the model is another
    one than that of the run, and a ConfigError or TemporaryError where the program has ended. `say` is called with
    what people should know of an answer.
    """

    def __init__(
        self,
        programs: Programs,
        environment: Mapping[str, str] | None = None,
        *,
        say: Callable[[str], object] | None = None,
    ) -> None:
        self._say = say or (lambda message: log.warning("query", message=message))
        self.ready: Future[QueryModel] = Future()
        """The model, once it is found and is known to be that of the run."""
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._pending: dict[int, _Asked] = {}
        self._gone: EmbedderError | None = None
        """Why the program answers no more."""
        self._model_error: EmbedderError | None = None
        """Why no vector may be compared with those of the run."""
        self._run: tuple[Provenance, str, int] | None = None
        self._words = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(  # noqa: S603 - a part of this program
            list(programs.query),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=dict(os.environ if environment is None else environment),
            # The Ctrl-C of a terminal reaches this program alone, whose end is the end of the other one.
            start_new_session=True,
        )
        self._sent: deque[Frame] = deque()
        self._has_sent = threading.Semaphore(0)
        for work in (self._read, self._write):
            threading.Thread(target=work, name=f"query-{work.__name__.strip('_')}", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def use_model(self, run: Provenance, *, name: str, dimensions: int, model: str = "") -> None:
        """Let the program find the model that made the vectors of the run `name`.

        `model` is another place where it is looked for; it has to be the same model all the same. Call it once.
        """
        self._run = run, name, dimensions
        self._send(0, {"kind": "model", "name": model or run.model, "revision": run.model_revision or "main"})

    def text(self, text: str) -> Future[NDArray[np.float32]]:
        """Return the vector of a text: (dimensions,) float32 of L2 norm 1."""
        if not text.strip():
            return _refused("the text is empty; describe a picture in some words")
        if len(text) > MAX_TEXT_CHARS:
            return _refused(f"the text has {len(text)} characters, the limit is {MAX_TEXT_CHARS}; use fewer words")
        return self._ask({"kind": "text", "text": text.encode("utf-8", "replace").decode()})

    def image(self, data: bytes) -> Future[NDArray[np.float32]]:
        """Return the vector of an image's file: (dimensions,) float32 of L2 norm 1."""
        if not data:
            return _refused("the image has no bytes")
        if len(data) > MAX_IMAGE_BYTES:
            return _refused(f"the image has {len(data)} bytes, the limit is {MAX_IMAGE_BYTES}")
        return self._ask({"kind": "image"}, data)

    def url(self, url: str) -> Future[NDArray[np.float32]]:
        """Return the vector of the image at an http, https or s3 URL: (dimensions,) float32 of L2 norm 1."""
        if not url.strip():
            return _refused("the URL is empty")
        return self._ask({"kind": "url", "url": url.encode("utf-8", "replace").decode()})

    def picture(self, url: str, *, max_side: int, folder: Path | None = None) -> Future[Picture]:
        """Return a small JPEG of the image at a URL, also while the model is not loaded.

        `folder` is where the paths of a local list start. If it is None, no local file is read. Give it for a row of
        the result of a local run alone, never for a URL that anybody else may choose.
        """
        if not url.strip():
            return _refused("the URL is empty")
        head = {"kind": "picture", "url": url.encode("utf-8", "replace").decode(), "side": max_side}
        return self._ask({**head, "folder": str(folder) if folder is not None else ""})

    def close(self) -> None:
        """End the program. Queries that are not answered are refused."""
        self._end(TemporaryError("the query program was closed"))
        with suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._words.close()

    @property
    def _stdin(self) -> Any:  # noqa: ANN401 - a pipe
        return self._process.stdin

    # To the program

    def _ask(self, head: dict[str, Any], payload: bytes = b"") -> Future[Any]:
        answer: Future[Any] = Future()
        number = next(self._numbers)
        is_picture = head["kind"] == "picture"
        with self._lock:
            error = self._gone or (None if is_picture else self._model_error)
            if error is not None:
                answer.set_exception(error)
                return answer
            self._pending[number] = _Asked(answer, is_picture)
        self._send(number, head, payload)
        return answer

    def _send(self, number: int, head: dict[str, Any], payload: bytes = b"") -> None:
        self._sent.append(Frame({**head, "id": number}, payload))
        self._has_sent.release()

    def _write(self) -> None:
        """Send the messages, in a thread of its own: a pipe without room would hold the caller up."""
        while True:
            self._has_sent.acquire()
            if self._gone is not None:
                return
            try:
                write_frame(self._stdin, self._sent.popleft())
            except (OSError, ValueError):  # the program has ended, which the other thread notices
                return

    # From the program

    def _read(self) -> None:
        """Take the answers, in a thread of its own."""
        stream: Any = self._process.stdout
        try:
            while (frame := read_frame(stream, max_payload_bytes=MAX_ANSWER_BYTES)) is not None:
                self._take(frame)
        except (OSError, BrokenFrame) as error:
            log.warning("query_program", message=str(error))
        finally:
            with suppress(OSError):
                stream.close()
        self._end(self._why_ended())

    def _take(self, frame: Frame) -> None:
        head = frame.head
        if head.get("id") == 0:
            self._take_model(head)
            return
        with self._lock:
            asked = self._pending.pop(head.get("id", -1), None)
        if asked is None:
            return
        answer = asked.answer
        match head:
            case {"kind": "vector"}:
                if head.get("is_cut"):
                    self._say("the text is longer than what the model reads, so its end was left out")
                _set(answer, np.frombuffer(frame.payload, np.float32))
            case {"kind": "picture", "media_type": str(media_type)}:
                _set(answer, Picture(frame.payload, media_type))
            case _:
                _fail(answer, _error_of(head))

    def _take_model(self, head: Mapping[str, Any]) -> None:
        """Compare the model with that of the run, before any vector arrives."""
        if head.get("kind") != "model" or self._run is None:
            error = _error_of(head)
            advice = "; name its folder with --model FOLDER" if isinstance(error, errors.ModelError) else ""
            self._refuse_model(type(error)(f"{error}{advice}"))
            return
        run, name, dimensions = self._run
        found = QueryModel(
            model=str(head["name"]),
            revision=str(head["revision"]),
            weights=str(head["weights"]),
            preprocessing=str(head["preprocessing"]),
            is_untrained=bool(head["is_untrained"]),
            dimensions=int(head["dimensions"]),
        )
        try:
            check_same_model(run, found, name=name)
            if found.dimensions != dimensions:
                raise errors.FingerprintMismatch(
                    f"the vectors of {name} have {dimensions} dimensions, those of {found.model} have "
                    f"{found.dimensions}; name the folder of the run's model with --model FOLDER"
                )
        except EmbedderError as mismatch:
            self._refuse_model(mismatch)
        else:
            _set(self.ready, found)

    def _refuse_model(self, error: EmbedderError) -> None:
        with self._lock:
            self._model_error = error
            refused = [number for number, asked in self._pending.items() if not asked.is_picture]
            answers = [self._pending.pop(number).answer for number in refused]
        for answer in (self.ready, *answers):
            _fail(answer, error)

    def _end(self, error: EmbedderError) -> None:
        with self._lock:
            if self._gone is None:
                self._gone = error
            pending, self._pending = list(self._pending.values()), {}
        self._has_sent.release()
        for answer in (self.ready, *(asked.answer for asked in pending)):
            _fail(answer, self._gone)

    def _why_ended(self) -> EmbedderError:
        """Return why the program has ended, by its exit code and its last words."""
        exit_code = container_exit_code(self._process.wait())
        kind = {ExitCode.CONFIG_ERROR: ConfigError, ExitCode.DATA_ERROR: DataError}.get(
            cast("ExitCode", exit_code), TemporaryError
        )
        try:
            self._words.seek(0)
            lines = self._words.read().decode("utf-8", "replace").splitlines()
        except ValueError:  # `close` was called
            lines = []
        last = parse_line(lines[-1]) if lines else None
        if last is not None and last.event == "failed" and (message := last.values.get("message")):
            return kind(f"the query program failed: {message}")
        said = f"; its last lines: {printable(' / '.join(lines[-LAST_LINES:]))}" if lines else ""
        return kind(f"the query program has stopped: {explain_exit_code(exit_code)}{said}")


def _error_of(head: Mapping[str, Any]) -> EmbedderError:
    """Return the error that the program has met. Of one that no version knows, only the sentence is kept."""
    kind = getattr(errors, str(head.get("error", "")), None)
    message = str(head.get("message", "the query program gave an answer that cannot be read"))
    if isinstance(kind, type) and issubclass(kind, EmbedderError) and hasattr(kind, "exit_code"):
        return kind(message)
    return TemporaryError(message)


def _refused(message: str) -> Future[Any]:
    answer: Future[Any] = Future()
    answer.set_exception(QueryRefused(message))
    return answer


def _set(future: Future[Any], value: object) -> None:
    with suppress(InvalidStateError):  # it was cancelled
        future.set_result(value)


def _fail(future: Future[Any], error: BaseException) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
