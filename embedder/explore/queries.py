"""What the page asks the model and the network for."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

from common.errors import QueryRefused

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from embedder.query.identity import QueryModel
    from embedder.query.program import Picture, QueryProgram


class Queries(Protocol):
    """The query program, as the page uses it for one run. Its methods may be called from any thread.

    Futures raise an EmbedderError with a sentence for the page.
    """

    @property
    def ready(self) -> Future[QueryModel]:
        """The model, once it is loaded."""

    def text(self, text: str) -> Future[NDArray[np.float32]]:
        """The text's vector, (dimensions,) of L2 norm 1."""

    def image(self, data: bytes) -> Future[NDArray[np.float32]]:
        """The vector of an image file's bytes."""

    def picture(self, url: str, *, max_side: int) -> Future[Picture]:
        """The image of a row of the result, made small. Does not wait for the model."""


class RunQueries:
    """Asks the query program. `images` is where the paths of a local list start, None where no local file is shown."""

    def __init__(self, program: QueryProgram, images: Path | None) -> None:
        self._program, self._images = program, images

    @property
    def ready(self) -> Future[QueryModel]:
        return self._program.ready

    def text(self, text: str) -> Future[NDArray[np.float32]]:
        return self._program.text(text)

    def image(self, data: bytes) -> Future[NDArray[np.float32]]:
        return self._program.image(data)

    def picture(self, url: str, *, max_side: int) -> Future[Picture]:
        if self._images is None and "://" not in url:
            refused: Future[Picture] = Future()
            refused.set_exception(
                QueryRefused(
                    "it is a local file; start embedder explore with --images FOLDER, the folder of the list, of the "
                    "pictures, or of the tar or Parquet files that hold them"
                )
            )
            return refused
        return self._program.picture(url, max_side=max_side, folder=self._images)
