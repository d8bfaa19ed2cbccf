"""`embedder rerun`: computes chunks again, in a new Job that is made from the worker Job in the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
import yaml

from common.errors import ClusterUnavailable, RerunRefused, SettingsError
from k8s.api.errors import AlreadyExists
from k8s.api.options import ContextOption, NamespaceOption, ReleaseOption, open_cluster
from k8s.derived_job import check_quantity, derive_worker_job, lasting_owners, parse_assignments, prefix_of
from k8s.derived_job_options import CpuOption, MemoryOption, ParallelismOption, SetEnvOption, parse_chunks
from k8s.release.labels import Component
from k8s.release.release import Release
from k8s.release.wording import name_chunks
from k8s.rerun.job import next_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s.api.cluster import Object

EPILOG = "\n\n".join(
    [
        "[bold]Examples[/bold]",
        "[cyan]embedder rerun[/cyan]",
        "[cyan]embedder rerun --chunks 3,7-9 --memory 16Gi[/cyan]",
        "[cyan]embedder rerun --set-env EMBEDDER_FETCH_CONCURRENCY=16 --dry-run[/cyan]",
    ]
)

ATTEMPTS = 5
"""Number of attempts to create a Job, whose name is taken when somebody else creates a rerun at the same time."""


def rerun(
    *,
    chunks: Annotated[
        str,
        typer.Option(
            "--chunks",
            metavar="3,7-9",
            help="Chunks to compute.\n\n[dim]default: all that failed[/dim]",
            show_default=False,
        ),
    ] = "",
    memory: MemoryOption = "",
    cpu: CpuOption = "",
    assignments: SetEnvOption = None,
    parallelism: ParallelismOption = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            metavar=" ",
            help="Include chunks that are done. A worker still skips a chunk that is in the store.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar=" ", help="Print the Job without creating it.")] = False,
    release: ReleaseOption = "embedder",
    namespace: NamespaceOption = "",
    context: ContextOption = "",
) -> None:
    """Compute failed chunks of a run in the cluster again.

    The command creates a Job like the worker Job, for these chunks only.
    A merge that waits for them continues by itself. helm uninstall also deletes the new Job.
    """
    wanted = parse_chunks(chunks)
    check_quantity("--memory", memory)
    check_quantity("--cpu", cpu)
    environment = parse_assignments(assignments or [])
    cluster = open_cluster(namespace=namespace, context=context)
    for _ in range(ATTEMPTS):
        found = Release(cluster, release)
        if found.worker.is_gone:
            raise RerunRefused(
                f"Job {found.worker.name} no longer exists, so a rerun cannot be made from it; helm upgrade with "
                "rerun.chunks=3\\,7-9 computes chunks without it, and with the same values it creates the Job again"
            )
        selected = select_chunks(found, wanted, force=force)
        if selected.already_done:
            left_out = name_chunks(selected.already_done)
            typer.echo(f"left out because done already: {left_out}; --force includes them", err=True)
        if not selected.chunks:
            typer.echo(_nothing_to_do(found), err=True)
            return
        job = _job(found, selected.chunks, environment=environment, memory=memory, cpu=cpu, parallelism=parallelism)
        if dry_run:
            typer.echo(yaml.safe_dump(job, sort_keys=False, width=120), nl=False)
            return
        try:
            created = cluster.create_job(job)
        except AlreadyExists:  # another person created a rerun, perhaps for the same chunks
            continue
        _say_created(found, str(created["metadata"]["name"]), selected.chunks)
        return
    raise ClusterUnavailable(f"other people created {ATTEMPTS} reruns of {release} at the same time; try again")


class Selection(NamedTuple):
    """The chunks that a rerun computes."""

    chunks: list[int]
    already_done: frozenset[int]
    """The wanted chunks that are left out because they are done."""


def select_chunks(release: Release, wanted: list[int], *, force: bool) -> Selection:
    """Return the chunks to compute: the wanted ones, or all failed ones where none are named.

    Chunks that are done are left out, unless `force`. Raises SettingsError when a chunk is outside the run, and
    RerunRefused when a Job computes it now or later.
    """
    if not wanted:
        return Selection(sorted(release.failed()), frozenset())
    if wanted[-1] >= release.chunk_count:
        raise SettingsError(
            f"--chunks names chunk {wanted[-1]}, but the last of the run's {release.chunk_count} chunks is "
            f"{release.chunk_count - 1}"
        )
    for job in reversed(release.embedding_jobs):
        if busy := job.pending & set(wanted):
            raise RerunRefused(
                f"Job {job.name} still computes {name_chunks(busy)}, or will; wait until it has given them up, or "
                "leave them out"
            )
    done = frozenset() if force else release.done() & set(wanted)
    return Selection([chunk for chunk in wanted if chunk not in done], done)


def _job(
    release: Release,
    chunks: list[int],
    *,
    environment: Mapping[str, str],
    memory: str,
    cpu: str,
    parallelism: int | None,
) -> Object:
    worker = release.objects[release.worker.name]
    return derive_worker_job(
        worker,
        name=next_name(prefix_of(release), [job.name for job in release.jobs]),
        component=Component.RERUN,
        chunks=chunks,
        owners=lasting_owners(release),
        environment=environment,
        memory=memory,
        cpu=cpu,
        parallelism=parallelism,
    )


def _nothing_to_do(release: Release) -> str:
    pending = release.pending()
    computed = f"{len(release.done())} of {release.chunk_count} chunks are done"
    still = f", {len(pending)} are still computed or will be" if pending else ""
    return f"nothing to compute again: {computed}{still}, and no wanted chunk has failed"


def _say_created(release: Release, name: str, chunks: list[int]) -> None:
    flags = release.flags()
    lines = [
        f"Job {name} computes {name_chunks(chunks)} again",
        f"  embedder status {flags} --watch",
        f"  embedder logs {chunks[0]} -f {flags}",
    ]
    if not lasting_owners(release):
        lines.append(
            f"The Jobs of release {release.name} are deleted when they have ended, so helm uninstall does not stop "
            f"this one; kubectl delete job {name} -n {release.cluster.namespace} does."
        )
    if release.merge is not None and release.merge.end:
        lines.append(
            f"Job {release.merge.name} has ended and does not merge these chunks. When they are in the store, run "
            f"kubectl delete job {release.merge.name} -n {release.cluster.namespace} and upgrade the release with the "
            "same values."
        )
    else:
        lines.append("The merge continues by itself when the chunks are in the store.")
    typer.echo("\n".join(lines), err=True)
