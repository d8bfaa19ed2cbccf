"""The attributes that chunk files and the result share: what made the vectors, and by which version of the program."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from common.format.provenance import Provenance, program_version

if TYPE_CHECKING:
    import h5py

SCHEMA_VERSION = 1
"""The version of the format of chunk files and of the result."""


def run_attributes(provenance: Provenance) -> dict[str, Any]:
    """Return the attributes that a program writes now."""
    return asdict(provenance) | {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": provenance.fingerprint,
        "program_version": program_version(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read_provenance(file: h5py.File) -> Provenance:
    """Return what made the vectors of an open chunk file or result.

    Raises KeyError or ValueError when an attribute is absent or the schema version or the fingerprint is wrong.
    """
    schema = int(file.attrs["schema_version"])
    if schema != SCHEMA_VERSION:
        raise ValueError(f"schema version {schema}, this program reads {SCHEMA_VERSION}")
    values = {name: file.attrs[name] for name in Provenance.__dataclass_fields__}
    provenance = Provenance(
        **{name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    )
    # HDF5 keeps no checksum of texts. A damaged text must not look like a run with other settings.
    if str(file.attrs["fingerprint"]) != provenance.fingerprint:
        raise ValueError("its fingerprint does not belong to its provenance")
    return provenance
