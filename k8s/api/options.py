"""The options that `embedder status`, `logs` and `rerun` share: they say which release is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster

IN_CLUSTER = "In the cluster"

ReleaseOption = Annotated[
    str,
    typer.Option(
        "--release",
        metavar="NAME",
        help="Name of the Helm release, or of the run where a release has several.",
        rich_help_panel="Where",
    ),
]
NamespaceOption = Annotated[
    str,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="Namespace of the release.\n\n[dim]default: the namespace of the context[/dim]",
        show_default=False,
        rich_help_panel="Where",
    ),
]
ContextOption = Annotated[
    str,
    typer.Option(
        "--context",
        metavar="NAME",
        help="Context in the kubeconfig.\n\n[dim]default: the current context[/dim]",
        show_default=False,
        rich_help_panel="Where",
    ),
]


def open_cluster(*, namespace: str, context: str) -> Cluster:
    """Return the cluster. Raises ClusterAccessDenied when there is none to ask."""
    # This import takes most of a second, which `embedder run` and `embedder --help` need not wait for.
    from k8s.api.connection import connect  # noqa: PLC0415

    return connect(context=context, namespace=namespace)
