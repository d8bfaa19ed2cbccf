"""The forms that a result can be exported to, and what is known of each without its library."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from results.export.form import Form


class Format(StrEnum):
    PARQUET = "parquet"
    NPY = "npy"
    FAISS = "faiss"
    USEARCH = "usearch"


class FormatFacts(NamedTuple):
    endings: tuple[str, ...]
    """A destination with one of these endings is one file, any other one a folder."""
    libraries: Mapping[str, str]
    """The modules that the form needs, each with the distribution that has it."""


FACTS = {
    Format.PARQUET: FormatFacts((".parquet", ".pq"), {"pyarrow": "pyarrow"}),
    Format.NPY: FormatFacts((".npy",), {"pyarrow": "pyarrow"}),
    Format.FAISS: FormatFacts((".faiss", ".index"), {"pyarrow": "pyarrow", "faiss": "faiss-cpu"}),
    Format.USEARCH: FormatFacts((".usearch",), {"pyarrow": "pyarrow", "usearch": "usearch"}),
}


def form_of(target: Format) -> Form:
    """Return the form. Imports its libraries, which are large."""
    match target:
        case Format.PARQUET:
            from results.export.parquet_form import ParquetForm  # noqa: PLC0415

            return ParquetForm()
        case Format.NPY:
            from results.export.npy_form import NpyForm  # noqa: PLC0415

            return NpyForm()
        case Format.FAISS:
            from results.export.faiss_form import FaissForm  # noqa: PLC0415

            return FaissForm()
        case Format.USEARCH:
            from results.export.usearch_form import UsearchForm  # noqa: PLC0415

            return UsearchForm()
