"""`embedder check`: from its options to a table, and to the exit code that the worker would end with."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from common.errors import (
    ClusterAccessDenied,
    ClusterUnavailable,
    EmbedderError,
    NotInCluster,
    RunUnfinished,
    SettingsError,
)
from common.findings import Subject, exit_code_of, fault, skipped
from common.logs import redact_urls
from embedder.check import options as own  # noqa: TC001 - typer reads the annotations
from embedder.local import options
from embedder.local.programs import Programs, check_worker_libraries
from embedder.local.settings import SETTABLE, environment_of
from k8s.api.options import ContextOption, NamespaceOption, open_cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from common.findings import Finding
    from embedder.check.settings import JobEnvironment, JobSettings
    from k8s.api.cluster import Cluster
    from k8s.check.surroundings import Workload

EXAMPLES = (
    "embedder check photos.csv out",
    "embedder check s3://bucket/list.parquet s3://bucket/run --chunks 180 -n photos",
    "embedder check --release embedder -n photos --json",
    "helm template embedder charts/ --values values.yaml | embedder check --rendered -",
)

EPILOG = options.examples_epilog(EXAMPLES)

PIPE_WIDTH = 160
"""Width of the table in columns where the output is not a terminal and COLUMNS is not set."""

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
    try:
        run = _Check(
            environment_of(given, assignments or []),
            programs=context.obj or Programs(),
            release="" if rendered else release,
            rendered=rendered,
            rendered_run=release if rendered else "",
            namespace=namespace,
            k8s_context=k8s_context,
        )
        exit_code = run.run(as_json=as_json)
    except EmbedderError as error:
        if not as_json:
            raise
        exit_code = _print_fault(error)
    raise typer.Exit(exit_code)


def _print_fault(error: EmbedderError) -> int:
    """Print JSON for an error before which nothing could be tried, and return its exit code."""
    from embedder.check.screen import as_json as json_of  # noqa: PLC0415

    match error:
        case ClusterAccessDenied() | ClusterUnavailable() | NotInCluster():
            subject = Subject.ACCESS
        case RunUnfinished():
            subject = Subject.PROGRAM
        case _:
            subject = Subject.SETTINGS
    typer.echo(json_of([fault(subject, error)], None, []))
    return error.exit_code


class _Check:
    def __init__(
        self,
        given: Mapping[str, str],
        *,
        programs: Programs,
        release: str,
        rendered: str,
        rendered_run: str,
        namespace: str,
        k8s_context: str,
    ) -> None:
        self._given, self._programs = given, programs
        self._release, self._rendered, self._rendered_run = release, rendered, rendered_run
        self._namespace, self._context = namespace, k8s_context
        self._cluster: Cluster | None = None
        self._why_no_cluster = NO_CLUSTER
        self._jobs: JobSettings | None = None
        self._notes: list[str] = []
        self._environment: Mapping[str, str] = {}
        """The settings of the run, once they are known."""

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
        plan = make_plan(
            findings,
            wants_gpu=self._wants_gpu(),
            max_image_pixels=self._max_image_pixels(),
            chunk_count=self._chunk_count(),
        )
        if as_json:
            typer.echo(json_of(findings, plan, self._notes))
        else:
            _print(as_screen(findings, plan, self._notes))
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

            self._jobs = rendered_jobs(self._rendered, run=self._rendered_run)

    def _from_check_job(self) -> list[Finding] | None:
        """Return what the release's check Job has found, None if there is no such Job."""
        if not self._release or self._cluster is None:
            return None
        from embedder.check.settings import JobSettings  # noqa: PLC0415
        from k8s.check.check_job import find_check_job, read_check_job  # noqa: PLC0415
        from k8s.release.job import environment_of as variables_of  # noqa: PLC0415
        from k8s.release.release import Release  # noqa: PLC0415

        job = find_check_job(self._cluster, self._release)
        if job is not None:
            self._jobs = JobSettings(job, None)
            self._environment = variables_of(job)
            self._notes.append(f"this is what Job {job['metadata']['name']} has found, in the worker's own pod")
            return read_check_job(self._cluster, job, say=_say)
        release = Release(self._cluster, self._release)
        merge = None if release.merge is None else release.objects[release.merge.name]
        self._jobs = JobSettings(release.objects[release.worker.name], merge)
        return None

    def _here(self) -> list[Finding]:
        """Return what the worker's check finds on this machine."""
        check_worker_libraries("embedder check")
        from embedder.check.worker_check import run_worker_check  # noqa: PLC0415

        taken = self._environment_of_job()
        environment = {**os.environ, **(taken.variables if taken else {}), **self._given}
        self._environment = environment
        missing = [
            f"no {argument} is given and {name} is not set"
            for name, argument in (("EMBEDDER_MANIFEST_URI", "MANIFEST"), ("EMBEDDER_RUN_URI", "RUN"))
            if not environment.get(name)
        ]
        if missing:
            raise SettingsError(f"{'; '.join(missing)}; see embedder check --help")
        skip: dict[Subject, str] = {}
        if taken is not None:
            self._notes += taken.notes
            skip = {subject: why for subject, why in taken.skip.items() if _variable_of(subject) not in self._given}
        status = Console(stderr=True, highlight=False)
        with status.status("looking at settings") as shown:
            findings = run_worker_check(
                self._programs.check,
                environment={SETTABLE["chunk_count"]: "1", **environment},
                skip=skip,
                on_step=lambda subject: shown.update(f"looking at {subject}"),
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

        return environment_for(variables_of(self._jobs.worker), self._jobs.worker, self._jobs.sources)

    def _look_at_cluster(self) -> list[Finding]:
        if self._cluster is None:
            subjects = (Subject.ACCESS, Subject.GATE, Subject.GPUS, Subject.QUOTA)
            return [skipped(subject, self._why_no_cluster) for subject in subjects]
        from k8s.check.surroundings import look_at_cluster  # noqa: PLC0415

        return look_at_cluster(self._cluster, self._workload())

    def _wants_gpu(self) -> bool:
        """Return whether the workers will have a GPU: by their Job, else as the chart's default, unless told cpu."""
        if self._jobs is None:
            return self._given.get(SETTABLE["device"], os.environ.get(SETTABLE["device"])) != "cpu"
        return bool(self._workload().gpu_resource)

    def _workload(self) -> Workload:
        from k8s.check.surroundings import Workload, workload_of  # noqa: PLC0415

        return Workload() if self._jobs is None else workload_of(self._jobs.worker, self._jobs.merge)

    def _chunk_count(self) -> int | None:
        """Return the number of chunks that the options, the environment or the Job ask for."""
        text = self._environment.get(SETTABLE["chunk_count"], "")
        return int(text) or None if text.isdecimal() else None

    def _max_image_pixels(self) -> int:
        from worker.settings import DecodeSettings  # noqa: PLC0415

        text = self._environment.get(SETTABLE["max_image_pixels"], "")
        return int(text) if text.isdecimal() else int(DecodeSettings.model_fields["max_image_pixels"].default)


def _variable_of(subject: Subject) -> str:
    setting = {Subject.MODEL: "model", Subject.MANIFEST: "manifest_uri", Subject.IMAGES: "manifest_uri"}
    return SETTABLE[setting.get(subject, "run_uri")]


def _print(screen: RenderableType) -> None:
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(screen)
        return
    if not os.environ.get("COLUMNS", "").isdecimal():
        console.width = PIPE_WIDTH
    with console.capture() as captured:
        console.print(screen)
    # The table fills its lines with blanks, which other programs need not read.
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _say(sentence: str) -> None:
    typer.secho(f"==> {redact_urls(sentence)} <==", err=True, bold=True)
    sys.stderr.flush()
