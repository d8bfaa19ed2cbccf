"""What made the vectors of a run, and the fingerprint that shows whether two programs make the same vectors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version

from common.errors import FingerprintMismatch


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

    def check_same(self, other: Provenance, *, name: str) -> None:
        """Raise FingerprintMismatch unless both belong to the same run; `name` is the object that holds `other`."""
        if other.fingerprint == self.fingerprint:
            return
        different = [each.name for each in fields(self) if getattr(self, each.name) != getattr(other, each.name)]
        theirs, ours = (", ".join(f"{field} {getattr(one, field)}" for field in different) for one in (other, self))
        is_count_alone = replace(self, chunk_count=other.chunk_count).fingerprint == other.fingerprint
        raise FingerprintMismatch(
            f"{name} was made with {theirs}, this run uses {ours} (fingerprints {other.fingerprint[:12]} and "
            f"{self.fingerprint[:12]}); choose another EMBEDDER_RUN_URI or the same settings",
            chunk_count=other.chunk_count if is_count_alone else None,
        )
