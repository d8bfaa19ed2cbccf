"""`embedder rerun`: compute chunks again, in a new Job made from the live worker Job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ClusterUnavailable, RerunRefused, SettingsError
from common.indexes import parse_indexes
from k8s.api.errors import AlreadyExists
from k8s.api.options import ContextOption, NamespaceOption, ReleaseOption, open_cluster
from k8s.release import Release, brief_indexes
from k8s.rerun.job import check_quantity, make_rerun, next_name, parse_assignments

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
"""To find a free name, while others make reruns too."""


def rerun(
    *,
    chunks: Annotated[
        str,
        typer.Option(
            "--chunks",
            metavar="3,7-9",
            help="Compute these chunks.\n\n[dim]default: all that failed[/dim]",
            show_default=False,
        ),
    ] = "",
    memory: Annotated[
        str,
        typer.Option(
            "--memory", metavar="16Gi", help="Memory of each pod, for chunks that ran out.", show_default=False
        ),
    ] = "",
    cpu: Annotated[
        str, typer.Option("--cpu", metavar="8", help="Cores that each pod asks for.", show_default=False)
    ] = "",
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set-env", metavar="NAME=VALUE", help="A variable of the workers; may be repeated.", show_default=False
        ),
    ] = None,
    parallelism: Annotated[
        int | None,
        typer.Option(
            "--parallelism",
            metavar="P",
            min=1,
            help="Workers at a time.\n\n[dim]default: that of the worker Job[/dim]",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", metavar=" ", help="Also chunks that are done; a worker skips one that the store still has."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar=" ", help="Print the Job, and create nothing.")] = False,
    release: ReleaseOption = "embedder",
    namespace: NamespaceOption = "",
    context: ContextOption = "",
) -> None:
    """Compute failed chunks of a run in the cluster again.

    A new Job from the live worker Job's own template, for these chunks only, which keep their numbers. The merge that
    waits for them goes on by itself; helm uninstall removes the Job with the rest.
    """
    try:
        wanted = parse_indexes(chunks)
    except ValueError as error:
        raise SettingsError(f"--chunks {chunks}: {error}") from error
    if chunks and not wanted:
        raise SettingsError(f"--chunks {chunks!r} names no chunk; write it as in 3,7-9")
    check_quantity("--memory", memory)
    check_quantity("--cpu", cpu)
    environment = parse_assignments(assignments or [])
    cluster = open_cluster(namespace=namespace, context=context)
    for _ in range(ATTEMPTS):
        found = Release(cluster, release)
        selected = select_chunks(found, wanted, force=force)
        if not selected:
            typer.echo(_nothing_to_do(found), err=True)
            return
        job = _job(found, selected, environment=environment, memory=memory, cpu=cpu, parallelism=parallelism)
        if dry_run:
            typer.echo(_yaml(job), nl=False)
            return
        try:
            created = cluster.create_job(job)
        except AlreadyExists:  # somebody else was first: of the same chunks, perhaps
            continue
        _say_created(found, str(created["metadata"]["name"]), selected)
        return
    raise ClusterUnavailable(f"others made {ATTEMPTS} reruns of {release} meanwhile; try again")


def select_chunks(release: Release, wanted: list[int], *, force: bool) -> list[int]:
    """Return the chunks to compute: the wanted ones, or (where none are named) all that failed.

    Those that are done are left out, unless `force`. Raises SettingsError when one is outside the run, RerunRefused
    when one is still computed, or will be.
    """
    if not wanted:
        return sorted(release.failed())
    if wanted[-1] >= release.chunk_count:
        raise SettingsError(
            f"--chunks names chunk {wanted[-1]}, but the last of the run's {release.chunk_count} is "
            f"{release.chunk_count - 1}"
        )
    for job in reversed(release.embedding_jobs):
        if busy := job.pending & set(wanted):
            raise RerunRefused(
                f"Job {job.name} still computes {_chunks(busy)}, or will; wait until it has given them up, or leave "
                "them out"
            )
    done = release.done() & set(wanted)
    if done and not force:
        typer.echo(f"left out, since done already: {_chunks(done)}; --force takes them all the same", err=True)
        return [chunk for chunk in wanted if chunk not in done]
    return wanted


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
    owners = [worker] + ([release.objects[release.merge.name]] if release.merge is not None else [])
    return make_rerun(
        worker,
        name=next_name(release.worker.name.removesuffix("-worker"), [job.name for job in release.jobs]),
        chunks=chunks,
        owners=owners,
        environment=environment,
        memory=memory,
        cpu=cpu,
        parallelism=parallelism,
    )


def _nothing_to_do(release: Release) -> str:
    pending = release.pending()
    computed = f"{len(release.done())} of {release.chunk_count} chunks are done"
    still = f", {len(pending)} are still computed or will be" if pending else ""
    return f"nothing to compute again: {computed}{still}, and none of those asked for has failed"


def _say_created(release: Release, name: str, chunks: list[int]) -> None:
    flags = release.flags()
    lines = [
        f"Job {name} computes {_chunks(chunks)} again",
        f"  embedder status {flags} --watch",
        f"  embedder logs {chunks[0]} -f {flags}",
    ]
    if release.merge is not None and release.merge.ended:
        lines.append(
            f"Job {release.merge.name} has ended and merges nothing by itself any more; once the chunks are there, "
            f"kubectl delete job {release.merge.name} -n {release.cluster.namespace}, and upgrade the release with the "
            "same values"
        )
    else:
        lines.append("The merge goes on by itself once they are there.")
    typer.echo("\n".join(lines), err=True)


def _chunks(chunks: list[int] | frozenset[int]) -> str:
    return f"chunk{'' if len(chunks) == 1 else 's'} {brief_indexes(chunks)}"


def _yaml(job: Object) -> str:
    import yaml  # noqa: PLC0415 - comes with the kubernetes client

    text: str = yaml.safe_dump(job, sort_keys=False, width=120)
    return text
