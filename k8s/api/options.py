"""What `embedder status`, `logs` and `rerun` have in common: the options that lead to a release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ClusterAccessDenied

if TYPE_CHECKING:
    from k8s.api.cluster import Cluster

IN_CLUSTER = "In the cluster"

ReleaseOption = Annotated[
    str,
    typer.Option("--release", metavar="NAME", help="The release, as helm install named it.", rich_help_panel="Where"),
]
NamespaceOption = Annotated[
    str,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="Its namespace.\n\n[dim]default: that of the context[/dim]",
        show_default=False,
        rich_help_panel="Where",
    ),
]
ContextOption = Annotated[
    str,
    typer.Option(
        "--context",
        metavar="NAME",
        help="The kubeconfig's context.\n\n[dim]default: the current one[/dim]",
        show_default=False,
        rich_help_panel="Where",
    ),
]


def open_cluster(*, namespace: str, context: str) -> Cluster:
    """Return the cluster. Raises ClusterAccessDenied when there is none to speak to."""
    try:
        from k8s.api.cluster import connect  # noqa: PLC0415 - `embedder run` needs no cluster
    except ModuleNotFoundError as error:
        raise ClusterAccessDenied(
            f"the module {error.name} is not installed; pip install 'embedder[cli,k8s]' brings what clusters need"
        ) from error
    return connect(context=context, namespace=namespace)
