"""Loading the model in the background: importing takes seconds, in which the first images are fetched."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from worker.encode.model import find_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.encode.batches import Batches
    from worker.encode.encoder import Encoder
    from worker.encode.model import ModelSource
    from worker.settings import EncodeSettings


class ModelLoading:
    """What the model will be, as promises that are kept one after the other. Errors are the promises' too."""

    def __init__(self, settings: EncodeSettings) -> None:
        self._settings = settings
        self.source: Future[ModelSource] = Future()
        """Found and hashed."""
        self.dtype: Future[str] = Future()
        """Of the computation, decided for the device at hand."""
        self.batches: Future[Batches] = Future()
        """Ready to be filled."""
        self.encoder: Future[Encoder] = Future()
        """Loaded and warm."""

    def start(self) -> None:
        # Before torch is imported: its threads are not to spin while they wait for work, on cores that decode.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._in_background(self._find, self.source)
        self._in_background(self._load, self.dtype, self.batches, self.encoder)

    def _in_background(self, work: Callable[[], None], *promises: Future[Any]) -> None:
        threading.Thread(target=partial(_keep, work, promises), name=work.__name__, daemon=True).start()

    def _find(self) -> None:
        self.source.set_result(find_model(self._settings.model, revision=self._settings.model_revision))

    def _load(self) -> None:
        # What the libraries make as they are imported stays: to look through it for garbage takes a quarter of the
        # import's time, and later a tenth of each image's.
        gc.disable()
        try:
            self._import_and_load()
        finally:
            gc.freeze()
            gc.enable()

    def _import_and_load(self) -> None:
        import torch  # noqa: PLC0415

        from worker.encode.batches import Batches  # noqa: PLC0415 - imports torch
        from worker.encode.encoder import (  # noqa: PLC0415
            Encoder,
            choose_batch_size,
            choose_device,
            choose_dtype,
            load_vision_tower,
        )

        threads = torch.get_num_threads()
        device = choose_device(self._settings.device)
        dtype = choose_dtype(self._settings.dtype, device)
        self.dtype.set_result(str(dtype).removeprefix("torch."))
        source = self.source.result()
        batch_size = self._settings.batch_size or choose_batch_size(device, threads=threads)
        self.batches.set_result(
            Batches(batch_size=batch_size, image_size=source.image_size, pinned=device.type == "cuda")
        )
        encoder = Encoder(load_vision_tower(source), source, device=device, dtype=dtype, threads=threads)
        encoder.warm_up(batch_size)
        self.encoder.set_result(encoder)


def _keep(work: Callable[[], None], promises: tuple[Future[Any], ...]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits
        for promise in promises:
            if not promise.done():
                promise.set_exception(error)
