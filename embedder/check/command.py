"""`embedder check`: from its options to a table, and to the exit code that the worker would end with."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from common.errors import ClusterAccessDenied, ClusterUnavailable, SettingsError
from common.findings import Subject, exit_code_of, skipped
from common.logs import redact_urls
from embedder.check import options as own  # noqa: TC001 - typer reads the annotations
from embedder.local import options  # noqa: TC001
from embedder.local.programs import Programs, check_worker_libraries
from embedder.local.settings import SETTABLE, environment_of
from k8s.api.options import ContextOption, NamespaceOption, open_cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.findings import Finding
    from embedder.check.settings import JobEnvironment
    from k8s.api.cluster import Cluster, Object

EXAMPLES = (
    "embedder check photos.csv out",
    "embedder check s3://bucket/list.parquet s3://bucket/run --chunks 180 -n photos",
    "embedder check --release embedder -n photos --json",
    "helm template embedder charts/ --values values.yaml | embedder check --rendered -",
)

EPILOG = "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]{example}[/cyan]" for example in EXAMPLES)])

PIPE_WIDTH = 160
"""Width of the table in columns where the output is not a terminal."""

NO_CLUSTER = "name a namespace with -n, or a --release, to look at a cluster"
"""What is said of a cluster that nobody has named."""


def check(
    context: typer.Context,
    *,
    manifest_uri: options.ManifestUri = None,
    run_uri: options.RunUri = None,
    chunk_count: options.ChunkCount = None,
    ids_uri: options.IdsUri = None,
    model: options.Model = None,
    model_revision: options.ModelRevision = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    sources: options.Sources = None,
    max_failure_ratio: options.MaxFailureRatio = None,
    assignments: options.Assignments = None,
    as_json: own.AsJson = False,
    release: own.ReleaseName = "",
    rendered: own.Rendered = "",
    namespace: NamespaceOption = "",
    k8s_context: ContextOption = "",
) -> None:
    """Try what a run will need, before it is started: store, list, images, model and cluster.

    Prints a table, and the chunks, cores and memory to ask for.
    Everything is tried, whatever has failed before, and nothing is left in the store.

    The exit code is the one that a worker would end with.
    """
    given = {
        "manifest_uri": manifest_uri,
        "run_uri": run_uri,
        "chunk_count": chunk_count,
        "ids_uri": ids_uri,
        "model": model,
        "model_revision": model_revision,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "sources": sources,
        "max_failure_ratio": max_failure_ratio,
    }
    options_given = environment_of(given, assignments or [])
    if release and rendered:
        raise SettingsError("--release and --rendered both name settings; give one of them")
    run = _Check(
        options_given,
        programs=context.obj or Programs(),
        release=release,
        rendered=rendered,
        namespace=namespace,
        k8s_context=k8s_context,
    )
    raise typer.Exit(run.run(as_json=as_json))


class _Check:
    def __init__(
        self,
        given: Mapping[str, str],
        *,
        programs: Programs,
        release: str,
        rendered: str,
        namespace: str,
        k8s_context: str,
    ) -> None:
        self._given, self._programs = given, programs
        self._release, self._rendered = release, rendered
        self._namespace, self._context = namespace, k8s_context
        self._cluster: Cluster | None = None
        self._why_no_cluster = NO_CLUSTER
        self._jobs: tuple[Object, Object | None] | None = None
        self._notes: list[str] = []
        self._environment: Mapping[str, str] = {}
        """The environment of the worker's check, once it is known."""

    def run(self, *, as_json: bool) -> int:
        """Try everything, print what was found, and return the exit code."""
        from embedder.check.plan import make_plan  # noqa: PLC0415 - `embedder --help` needs none of these
        from embedder.check.screen import as_json as json_of  # noqa: PLC0415
        from embedder.check.screen import as_screen  # noqa: PLC0415

        self._open_cluster()
        findings = self._from_check_job()
        if findings is None:
            findings = self._here()
        findings += self._look_at_cluster()
        plan = make_plan(findings, wants_gpu=self._wants_gpu(), max_image_pixels=self._max_image_pixels())
        if as_json:
            typer.echo(json_of(findings, plan, self._notes))
        else:
            console = Console(highlight=False)
            if not console.is_terminal:
                console.width = PIPE_WIDTH
            console.print(as_screen(findings, plan, self._notes))
        return exit_code_of(findings)

    def _open_cluster(self) -> None:
        """Find the cluster, and the Jobs whose settings are taken. Without --release it need not be there."""
        if self._release:
            self._cluster = open_cluster(namespace=self._namespace, context=self._context)
        elif self._namespace or self._context:
            try:
                self._cluster = open_cluster(namespace=self._namespace, context=self._context)
            except (ClusterAccessDenied, ClusterUnavailable) as error:
                self._why_no_cluster = str(error)
        if self._rendered:
            from embedder.check.settings import rendered_jobs  # noqa: PLC0415

            self._jobs = rendered_jobs(self._rendered)

    def _from_check_job(self) -> list[Finding] | None:
        """Return what the release's check Job has found, None if there is no such Job."""
        if not self._release or self._cluster is None:
            return None
        from k8s.check.check_job import find_check_job, read_check_job  # noqa: PLC0415
        from k8s.release.release import Release  # noqa: PLC0415

        job = find_check_job(self._cluster, self._release)
        if job is not None:
            self._jobs = job, None
            self._notes.append(f"this is what Job {job['metadata']['name']} has found, in the worker's own pod")
            return read_check_job(self._cluster, job, say=_say)
        release = Release(self._cluster, self._release)
        merge = None if release.merge is None else release.objects[release.merge.name]
        self._jobs = release.objects[release.worker.name], merge
        return None

    def _here(self) -> list[Finding]:
        """Return what the worker's check finds on this machine."""
        check_worker_libraries("embedder check")
        from embedder.check.worker_check import run_worker_check  # noqa: PLC0415

        taken = self._environment_of_job()
        environment = {**os.environ, **(taken.variables if taken else {}), **self._given}
        environment.setdefault(SETTABLE["chunk_count"], "1")
        self._environment = environment
        for name, argument in (("EMBEDDER_MANIFEST_URI", "MANIFEST"), ("EMBEDDER_RUN_URI", "RUN")):
            if not environment.get(name):
                raise SettingsError(f"no {argument} is given and {name} is not set; see embedder check --help")
        skip: dict[Subject, str] = {}
        if taken is not None:
            self._notes += taken.notes
            skip = {subject: why for subject, why in taken.skip.items() if _variable_of(subject) not in self._given}
        status = Console(stderr=True, highlight=False)
        with status.status("looking at settings") as shown:
            findings = run_worker_check(
                self._programs.check,
                environment=environment,
                skip=skip,
                on_finding=lambda finding: shown.update(f"looked at {finding.subject}"),
            )
        return [
            skipped(finding.subject, skip[finding.subject]) if finding.subject in skip else finding
            for finding in findings
        ]

    def _environment_of_job(self) -> JobEnvironment | None:
        if self._jobs is None:
            return None
        from embedder.check.settings import environment_for  # noqa: PLC0415
        from k8s.release.job import environment_of as variables_of  # noqa: PLC0415

        return environment_for(variables_of(self._jobs[0]), self._jobs[0])

    def _look_at_cluster(self) -> list[Finding]:
        if self._cluster is None:
            return [skipped(subject, self._why_no_cluster) for subject in (Subject.ACCESS, Subject.GPUS)]
        from k8s.check.surroundings import Workload, look_at_cluster, workload_of  # noqa: PLC0415

        return look_at_cluster(self._cluster, Workload() if self._jobs is None else workload_of(*self._jobs))

    def _wants_gpu(self) -> bool:
        """Return whether the workers will have a GPU: by their Job, else as the chart's default, unless told cpu."""
        if self._jobs is None:
            return self._given.get(SETTABLE["device"], os.environ.get(SETTABLE["device"])) != "cpu"
        from k8s.check.surroundings import workload_of  # noqa: PLC0415

        return bool(workload_of(*self._jobs).gpu_resource)

    def _max_image_pixels(self) -> int:
        from worker.settings import DecodeSettings  # noqa: PLC0415

        text = self._environment.get(SETTABLE["max_image_pixels"], "")
        return int(text) if text.isdecimal() else int(DecodeSettings.model_fields["max_image_pixels"].default)


def _variable_of(subject: Subject) -> str:
    return {Subject.MODEL: SETTABLE["model"], Subject.MANIFEST: SETTABLE["manifest_uri"]}.get(
        subject, SETTABLE["run_uri"]
    )


def _say(sentence: str) -> None:
    typer.secho(f"==> {redact_urls(sentence)} <==", err=True, bold=True)
    sys.stderr.flush()
