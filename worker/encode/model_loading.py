"""Loads the model in the background: the imports take seconds, in which the first images are fetched."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from common.process.thread_name import name_thread
from worker.encode.model import find_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.encode.batches import Batches
    from worker.encode.encoder import Encoder
    from worker.encode.model import ModelSource
    from worker.settings import EncodeSettings


GC_THRESHOLD = 20_000
"""Number of new objects after which the garbage collector looks for circles. With Python's own number, it took a tenth
of the event loop's time. The only circles are those of failures."""


class ModelLoading:
    """The parts of the model as futures, in the order in which they are set. If a part fails, its future has the error.

    find files ----> source ------------+
                                        v
    import torch --> dtype --------> batches --> import transformers --> encoder

    `descriptor` is the empty file in memory that becomes the pool of squares, with `spare_slots` slots beyond those of
    the batches.
    """

    def __init__(self, settings: EncodeSettings, *, descriptor: int, spare_slots: int) -> None:
        self._settings = settings
        self._descriptor, self._spare_slots = descriptor, spare_slots
        self.source: Future[ModelSource] = Future()
        """The model's files, found and hashed."""
        self.dtype: Future[str] = Future()
        """The type of the computation, chosen for this machine's device."""
        self.batches: Future[Batches] = Future()
        """The queue of batches, ready for squares."""
        self.encoder: Future[Encoder] = Future()
        """The encoder, loaded and warmed up."""

    def start(self) -> None:
        # Set before torch is imported, so that torch's threads sleep while they wait for work. By default they spin, on
        # cores that decode.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        _in_background("find-model", self._find, self.source)
        _in_background("load-model", self._load, self.dtype, self.batches, self.encoder)

    def _find(self) -> None:
        self.source.set_result(find_model(self._settings.model, revision=self._settings.model_revision))

    def _load(self) -> None:
        # The objects that the imports create stay. While the garbage collector looked through them, it took a quarter
        # of the imports' time and later a tenth of each image's time.
        gc.disable()
        try:
            self._import_and_load()
        finally:
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD)
            gc.enable()

    def _import_and_load(self) -> None:
        from worker.encode import encoder  # noqa: PLC0415 - it imports torch, which takes a second
        from worker.encode.batches import Batches  # noqa: PLC0415
        from worker.encode.cuda_device import pin  # noqa: PLC0415
        from worker.encode.device_faults import faults_of  # noqa: PLC0415

        with self._time_limit("the driver of the GPU"):
            device = encoder.choose_device(self._settings.device)
        dtype = encoder.choose_dtype(self._settings.dtype, device)
        self.dtype.set_result(str(dtype).removeprefix("torch."))
        source = self.source.result()
        threads = encoder.choose_thread_count()
        with self._time_limit(str(device)), faults_of(str(device)):
            device_name = encoder.name_device(device)
        with self._time_limit(device_name), faults_of(device_name):
            batch_size = self._settings.batch_size or encoder.choose_batch_size(device, threads=threads)
            batches = Batches(
                batch_size=batch_size,
                image_size=source.image_size,
                descriptor=self._descriptor,
                spare_slots=self._spare_slots,
                pin=pin if device.type == "cuda" else None,
            )
        self.batches.set_result(batches)
        # This import takes seconds. It comes after `batches` is set, so that decoders fill the first batch meanwhile.
        from worker.encode.vision_tower import load_vision_tower  # noqa: PLC0415

        tower = load_vision_tower(source)
        with self._time_limit(device_name):
            loaded = encoder.Encoder(tower, source, device=device, dtype=dtype, threads=threads)
            loaded.warm_up(batch_size)
        self.encoder.set_result(loaded)

    @contextmanager
    def _time_limit(self, device_name: str) -> Iterator[None]:
        """Give up waiting for a device that hangs in the block: the futures that are not set get the error."""
        from worker.encode.device_faults import does_not_answer  # noqa: PLC0415

        seconds = self._settings.encode_timeout_seconds
        futures = self.dtype, self.batches, self.encoder
        limit = threading.Timer(seconds, lambda: _fail(futures, does_not_answer(device_name, seconds)))
        limit.daemon = True
        limit.start()
        try:
            yield
        finally:
            limit.cancel()


def _in_background(name: str, work: Callable[[], None], *futures: Future[Any]) -> None:
    """Start a thread in which `work` sets the futures. If it raises, the futures that are not set get the error."""
    threading.Thread(target=partial(_run, name, work, futures), name=name, daemon=True).start()


def _run(name: str, work: Callable[[], None], futures: tuple[Future[Any], ...]) -> None:
    name_thread(name)
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - else the threads that wait for the futures would wait for ever
        _fail(futures, error)


def _fail(futures: tuple[Future[Any], ...], error: BaseException) -> None:
    for future in futures:
        with suppress(InvalidStateError):  # it is set already
            future.set_exception(error)
