"""`embedder topup`: fetches failed images of a run again, in new Jobs made from those in the cluster."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
import yaml

from common.errors import ClusterUnavailable, SettingsError, TopUpRefused
from common.format.reasons import MAY_PASS
from common.store import open_store
from k8s.api.errors import AlreadyExists
from k8s.api.options import ContextOption, NamespaceOption, ReleaseOption, open_cluster
from k8s.derived_job import check_quantity, lasting_owners, parse_assignments, prefix_of
from k8s.derived_job_options import CpuOption, MemoryOption, ParallelismOption, SetEnvOption, parse_chunks
from k8s.release.release import Release
from k8s.release.wording import name_chunks
from k8s.topup.job import (
    index_name,
    make_topup,
    make_topup_index,
    make_topup_merge,
    merge_name,
    next_topup_name,
    parse_labels,
    parse_reasons,
)
from k8s.topup.ledger import find_chunks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s.api.cluster import Object

EPILOG = "\n\n".join(
    [
        "[bold]Examples[/bold]",
        "[cyan]embedder topup[/cyan]",
        "[cyan]embedder topup --device cpu --cpu 2 --parallelism 4[/cyan]",
        "[cyan]embedder topup --reasons deferred,not_found --chunks 3,7-9 --dry-run[/cyan]",
    ]
)

ATTEMPTS = 5
"""Number of attempts to create a Job, whose name is taken when somebody else creates a top-up at the same time."""


class Device(StrEnum):
    CPU = "cpu"


class Changes(NamedTuple):
    """How the pods of a top-up differ from those of the worker Job."""

    reasons: str
    environment: Mapping[str, str]
    memory: str
    cpu: str
    parallelism: int | None
    on_cpus: bool
    node_selector: Mapping[str, str]


class Selection(NamedTuple):
    """The chunks of a top-up."""

    chunks: list[int]
    failed: frozenset[int]
    """The chunks that are left out because they have failed."""


def topup(
    *,
    chunks: Annotated[
        str,
        typer.Option(
            "--chunks", metavar="3,7-9", help="Chunks to look at.\n\n[dim]default: all[/dim]", show_default=False
        ),
    ] = "",
    reasons: Annotated[
        str,
        typer.Option(
            "--reasons",
            metavar="R,R",
            help="Reasons of the images to fetch again, as failures.csv names them.\n\n"
            f"[dim]default: {', '.join(sorted(MAY_PASS))}[/dim]",
            show_default=False,
        ),
    ] = "",
    parallelism: ParallelismOption = None,
    device: Annotated[
        Device | None,
        typer.Option(
            "--device",
            metavar="cpu",
            help="Compute on CPUs: the pods ask for no GPU and may run on any node.\n\n"
            "[dim]default: that of the worker Job[/dim]",
            show_default=False,
        ),
    ] = None,
    cpu: CpuOption = "",
    memory: MemoryOption = "",
    node_labels: Annotated[
        list[str] | None,
        typer.Option(
            "--node-selector",
            metavar="KEY=VALUE",
            help="Label of the nodes that the pods run on. May be given several times.",
            show_default=False,
        ),
    ] = None,
    assignments: SetEnvOption = None,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            metavar=" ",
            help="Look into the store, with the credentials of this machine, and leave out the chunks of a merged run "
            "that have no such images.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar=" ", help="Print the Jobs without creating them.")
    ] = False,
    release: ReleaseOption = "embedder",
    namespace: NamespaceOption = "",
    context: ContextOption = "",
) -> None:
    """Fetch failed images of a run in the cluster again, and merge what comes.

    The command creates a Job like the worker Job that requests only the images that failed for these reasons, and a
    merge that follows it. All other vectors stay as they are, whether the run is merged or not. The pod of a chunk
    without such images ends at once. helm uninstall also deletes the new Jobs.
    """
    wanted = parse_chunks(chunks)
    check_quantity("--memory", memory)
    check_quantity("--cpu", cpu)
    changes = Changes(
        reasons=parse_reasons(reasons),
        environment=parse_assignments(assignments or []),
        memory=memory,
        cpu=cpu,
        parallelism=parallelism,
        on_cpus=device is Device.CPU,
        node_selector=parse_labels(node_labels or []),
    )
    cluster = open_cluster(namespace=namespace, context=context)
    for _ in range(ATTEMPTS):
        found = Release(cluster, release)
        selected = select_chunks(found, wanted)
        if selected.failed:
            rerun = f"embedder rerun {found.flags()}"
            typer.echo(f"left out because failed: {name_chunks(selected.failed)}; {rerun} computes them", err=True)
        if store:
            selected = leave_out_chunks_without_images(found, selected, changes.reasons)
            if not selected.chunks:
                typer.echo("nothing to fetch again: no wanted chunk has images that failed for these reasons", err=True)
                return
        jobs = make_jobs(found, selected.chunks, changes)
        if dry_run:
            typer.echo(yaml.safe_dump_all(jobs, sort_keys=False, width=120), nl=False)
            return
        try:
            # The top-up first: a merge that has no top-up would wait, while a top-up without its merge is merged by the
            # next one.
            for job in jobs:
                cluster.create_job(job)
        except AlreadyExists:  # another person created a top-up
            continue
        _say_created(found, [str(job["metadata"]["name"]) for job in jobs], selected.chunks)
        return
    raise ClusterUnavailable(f"other people created {ATTEMPTS} top-ups of {release} at the same time; try again")


def select_chunks(release: Release, wanted: list[int]) -> Selection:
    """Return the chunks of the top-up: the wanted ones, or all that have not failed.

    Raises SettingsError when a chunk is outside the run, and TopUpRefused when there is no worker Job to make the
    top-up from, when a Job computes one of the chunks for the first time now or later, or when no chunk is left.
    """
    flags = release.flags()
    if release.worker.is_gone:
        raise TopUpRefused(
            f"Job {release.worker.name} no longer exists, so a top-up cannot be made from it; create one with the "
            f"chart: helm upgrade {release.name} <chart> -n {release.cluster.namespace} --reuse-values --set "
            "topUp.enabled=true"
        )
    if wanted and wanted[-1] >= release.chunk_count:
        raise SettingsError(
            f"--chunks names chunk {wanted[-1]}, but the last of the run's {release.chunk_count} chunks is "
            f"{release.chunk_count - 1}"
        )
    selected = wanted or list(range(release.chunk_count))
    for job in reversed(release.computing_jobs):
        if busy := job.pending & set(selected):
            raise TopUpRefused(
                f"Job {job.name} still computes {name_chunks(busy)}, or will; wait until it has ended (embedder status "
                f"{flags} --watch), or name other chunks with --chunks"
            )
    # A worker computes the whole chunk where it finds none, which is the task of a rerun.
    left_out = frozenset() if wanted else release.failed()
    chunks = [chunk for chunk in selected if chunk not in left_out]
    if not chunks:
        raise TopUpRefused(f"no chunk of the run is done; to compute them again: embedder rerun {flags}")
    return Selection(chunks, left_out)


def leave_out_chunks_without_images(release: Release, selected: Selection, reasons: str) -> Selection:
    """Return the chunks of the selection that have images to fetch again, as far as the store tells."""
    if not release.run_uri:
        raise SettingsError("--store needs the address of the run, and a Secret has it; leave out --store")
    wanted = frozenset(reasons.split(",")) if reasons else MAY_PASS
    found = find_chunks(open_store(release.run_uri), wanted)
    return selected if found is None else selected._replace(chunks=[each for each in selected.chunks if each in found])


def make_jobs(release: Release, chunks: list[int], changes: Changes) -> list[Object]:
    """Return the Job of the top-up, its merge, and the index that follows it.

    The merge and the index are made from those of the release, and are left out where it has none.
    """
    name = next_topup_name(prefix_of(release), [job.name for job in release.jobs])
    owners = lasting_owners(release)
    job = make_topup(release.objects[release.worker.name], name=name, chunks=chunks, owners=owners, **changes._asdict())
    if release.merge is None:
        return [job]
    merge = make_topup_merge(release.objects[release.merge.name], name=merge_name(name), topup=name, owners=owners)
    if release.index is None:
        return [job, merge]
    index = release.objects[release.index.name]
    return [job, merge, make_topup_index(index, name=index_name(name), topup=name, owners=owners)]


def _say_created(release: Release, created: list[str], chunks: list[int]) -> None:
    name = created[0]
    flags, namespace = release.flags(), release.cluster.namespace
    which = "all chunks" if len(chunks) == release.chunk_count else name_chunks(chunks)
    lines = [
        f"Job {name} fetches failed images of {which} again",
        f"  embedder status {flags} --watch",
        f"  embedder logs {chunks[0]} -f {flags}",
    ]
    if release.merge is not None:
        lines.append(f"Job {merge_name(name)} merges when it has ended.")
        if release.index is not None:
            lines.append(f"Job {index_name(name)} then builds the index again.")
    else:
        lines.append(
            "The release has no merge Job from which a merge could be made. When the Job has ended, upgrade the "
            "release with the same values, which creates the merge Job."
        )
    if not lasting_owners(release):
        lines.append(
            f"The Jobs of release {release.name} are deleted when they have ended, so helm uninstall does not stop "
            f"these; kubectl delete job {' '.join(created)} -n {namespace} does."
        )
    typer.echo("\n".join(lines), err=True)
