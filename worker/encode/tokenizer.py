"""From a text to the tokens of a text tower."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import transformers

from common.errors import ModelError
from common.process.resources import exhausted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_START, _END = 49_406, 49_407
"""The tokens of CLIP's vocabulary between which a text stands."""


class Tokens(NamedTuple):
    ids: Sequence[int]
    """The tokens with those of the start and the end."""
    is_cut: bool
    """Whether the text was longer than what the model reads."""


class Tokenizer(Protocol):
    def tokens(self, text: str, *, most: int) -> Tokens:
        """Return at most `most` tokens of a text in lower case, of which the last one is that of the end."""


class ModelTokenizer:
    """The tokenizer of a model, read from the files in its folder.

    Raises ModelError where the folder has no tokenizer.
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        if not any((folder / file).exists() for file in ("tokenizer.json", "vocab.json")):
            raise ModelError(
                f"{name}: {folder} holds no tokenizer (vocab.json and merges.txt, or tokenizer.json), so no text can "
                "be searched for; name the whole model with --model"
            )
        try:
            self._tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the library raises a dozen types of errors for files that are wrong
            raise exhausted(error) or ModelError(f"{name}: its tokenizer cannot be read: {error}") from error

    def tokens(self, text: str, *, most: int) -> Tokens:
        ids = self._tokenizer(text, verbose=False)["input_ids"]
        return Tokens(ids, is_cut=False) if len(ids) <= most else Tokens([*ids[: most - 1], ids[-1]], is_cut=True)


class ByteTokenizer:
    """Each byte of the text is a token. It needs no files, for a model whose weights are random."""

    def tokens(self, text: str, *, most: int) -> Tokens:
        data = text.encode("utf-8", "replace")
        return Tokens([_START, *data[: most - 2], _END], is_cut=len(data) > most - 2)
