"""What made a run's vectors, and the fingerprint that tells whether two programs made them alike."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version

from common.errors import FingerprintMismatch


def program_version() -> str:
    return version("embedder")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that decides the vectors and the rows of a run, and nothing that merely decides its speed."""

    manifest: str
    """Identity of the manifest's content: its size and a hash or ETag; two parts where ids come from a second file."""
    chunk_count: int
    model: str
    """Hub id, folder, or `untrained`."""
    model_revision: str
    weights: str
    """Hash of the weights and of the configuration they are used with."""
    dtype: str
    """Of the computation: float32, bfloat16 or float16."""
    preprocessing: str
    """Version of the steps from bytes to pixels."""
    rotation: bool
    """Whether the manifest's rotations are applied."""
    sources: str
    """The fallback list, comma-separated."""

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of what decides the vectors and the rows.

        The model's name and revision are left out: the same weights from a folder and from the hub are the same model.
        """
        decisive = {name: value for name, value in asdict(self).items() if name not in {"model", "model_revision"}}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def check_same(self, other: Provenance, *, name: str) -> None:
        """Raise FingerprintMismatch, naming object `name` that `other` was read from, unless both make the same run."""
        if other.fingerprint == self.fingerprint:
            return
        raise FingerprintMismatch(
            f"{name} was made with {self._differences(other, of_other=True)}, this run uses "
            f"{self._differences(other, of_other=False)} (fingerprints {other.fingerprint[:12]} and "
            f"{self.fingerprint[:12]}); choose another EMBEDDER_RUN_URI or the same settings"
        )

    def _differences(self, other: Provenance, *, of_other: bool) -> str:
        different = [each.name for each in fields(self) if getattr(self, each.name) != getattr(other, each.name)]
        return ", ".join(f"{name} {getattr(other if of_other else self, name)}" for name in different)
