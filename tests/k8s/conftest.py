from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.k8s.cluster_double import ClusterDouble, cluster_double

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterDouble]:
    """A cluster without objects; KUBECONFIG leads to it."""
    with cluster_double() as double:
        monkeypatch.setenv("KUBECONFIG", str(double.write_kubeconfig(tmp_path / "kubeconfig")))
        yield double
