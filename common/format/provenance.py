"""What made the vectors of a run, and the fingerprint that shows whether two programs make the same vectors."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from common.errors import FingerprintMismatch

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_HASH = re.compile(r"\b[0-9a-f]{32,}\b")


def program_version() -> str:
    return version("embedder")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that decides the vectors and the rows of a run, and nothing that only decides its speed."""

    manifest: str
    """The identity of the manifest's content: its size, and a hash or ETag; two parts if ids are in a second file."""
    chunk_count: int
    model: str
    """The hub id, the folder, or `untrained`."""
    model_revision: str
    weights: str
    """The hash of the weights and of the model's configuration."""
    dtype: str
    """The data type of the computation: float32, bfloat16 or float16."""
    preprocessing: str
    """The version of the steps from bytes to pixels."""
    rotation: bool
    """Whether the manifest's rotations are applied."""
    sources: str
    """The sources in their order, separated by commas."""

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of what decides the vectors and the rows.

        The model's name and revision are not part of it: the same weights from a folder and the hub are the same model.
        """
        decisive = {name: value for name, value in asdict(self).items() if name not in {"model", "model_revision"}}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def check_same(self, other: Provenance, *, name: str, unknown: AbstractSet[str] = frozenset()) -> None:
        """Raise FingerprintMismatch unless both belong to the same run; `name` is the object that holds `other`.

        The fields in `unknown` are not compared.
        """
        ours = replace(self, **{field: getattr(other, field) for field in unknown})
        if other.fingerprint == ours.fingerprint:
            return
        different = [each.name for each in fields(self) if getattr(ours, each.name) != getattr(other, each.name)]
        is_count_alone = replace(ours, chunk_count=other.chunk_count).fingerprint == other.fingerprint
        sentences = []
        if "manifest" in different:
            different.remove("manifest")
            sentences.append(
                f"was made from another list ({_short(other.manifest)}), this run's list is {_short(ours.manifest)}"
            )
        if different:
            theirs, mine = (
                ", ".join(f"{field} {_short(str(getattr(one, field)))}" for field in different) for one in (other, ours)
            )
            sentences.append(f"was made with {theirs}, this run uses {mine}")
        raise FingerprintMismatch(
            f"{name} {'; it '.join(sentences)} (fingerprints {other.fingerprint[:12]} and {ours.fingerprint[:12]}); "
            "choose another EMBEDDER_RUN_URI, or the same list and settings",
            chunk_count=other.chunk_count if is_count_alone else None,
        )


def _short(text: str) -> str:
    """Return the text with the first characters of each hash only."""
    return _HASH.sub(lambda found: found[0][:12], text)
