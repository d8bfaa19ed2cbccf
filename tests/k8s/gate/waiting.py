"""What the tests of all gates wait for, and the run that a gate finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merger.merge import merge
from tests.merger.runs import put_run, settings_for

if TYPE_CHECKING:
    from common.store.contract import Store
    from tests.k8s.cluster_double import ClusterDouble

COUNT = 4
"""Number of chunks of the runs."""


def wait_for_watch(cluster: ClusterDouble, *, more_than: int = 0) -> None:
    cluster.wait_for(lambda double: double.count("watch", "jobs") > more_than)


def finish_run(store: Store) -> None:
    put_run(store, [3] * COUNT)
    merge(store, settings_for(store, COUNT))
