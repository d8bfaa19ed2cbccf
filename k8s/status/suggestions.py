"""The commands that `embedder status` suggests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ExitCode
from common.format.reasons import Reason
from common.run.keys import RESULT_KEY
from k8s.rerun.job import doubled, memory_of
from k8s.status.troubles import failed_images
from k8s.status.wording import failures_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s.release.pod import Pod, PodEnd
    from k8s.release.release import Release
    from k8s.status.chunks import Chunks
    from k8s.status.troubles import FailedImages, PendingPods, RejectingNode


TRANSIENT_REJECTIONS = {"NodeShutdown"}
"""Reasons of a node that rejects pods for a while only. It needs no cordon."""

REJECTIONS = 2
"""Number of pods that a node has rejected from which on it is suggested to cordon it. The first may be an accident, as
while a device plugin restarts."""


def suggest(
    release: Release,
    chunks: Chunks,
    failures: Mapping[int, Pod | None],
    *,
    pending: Sequence[PendingPods],
    nodes: Sequence[RejectingNode],
    run_uri: str,
    may_pass: int,
) -> list[str]:
    """Return the commands to run next. `may_pass` is the number of failed images that a top-up may get."""
    flags, namespace = release.flags(), release.cluster.namespace
    merge = release.merge
    is_in_bucket = run_uri.startswith("s3://")
    commands = [
        f"kubectl cordon {each.node}"
        for each in nodes
        if each.count >= REJECTIONS and each.end.ended_by not in TRANSIENT_REJECTIONS
    ]
    if failures:
        first = next((chunk for chunk, pod in failures.items() if pod is not None), None)
        if first is not None:
            commands.append(f"embedder logs {first} {flags}")
        listed = next((images for chunk, pod in failures.items() if (images := _listed(chunk, pod))), None)
        if listed is not None and is_in_bucket:
            commands.append(f"aws s3 cp {failures_file(listed, run_uri=run_uri)} .")
        if not release.worker.is_gone:
            commands.append(f"embedder rerun {flags}{_remedies(release, failures)}")
    elif chunks.running:
        commands.append(f"embedder logs {min(chunks.running)} -f {flags}")
    commands += _about_top_ups(release, chunks, may_pass)
    if chunks.unknown and not (merge is not None and merge.is_complete):
        commands.append(f"embedder status {flags} --store")
    if pending and pending[0].pods:
        commands.append(f"kubectl describe pod {pending[0].pods[0]} -n {namespace}")
    commands += _about_failures(release)
    if merge is not None and merge.is_complete and is_in_bucket:
        commands.append(f"aws s3 cp {run_uri.rstrip('/')}/{RESULT_KEY} .")
    return commands


def _about_failures(release: Release) -> list[str]:
    """Return the commands that show why the merge or the index has failed."""
    commands = []
    if release.merge is not None and release.merge.has_failed:
        job, namespace = release.merge.name, release.cluster.namespace
        commands.append(f"kubectl logs job/{job} -n {namespace} --all-containers --tail=-1")
    if release.index is not None and release.index.has_failed:
        commands.append(f"embedder logs --index {release.flags()}")
    return commands


def _about_top_ups(release: Release, chunks: Chunks, may_pass: int) -> list[str]:
    flags = release.flags()
    going_on = [each for each in release.top_ups if not each.has_ended]
    if going_on:
        pending = going_on[-1].job.pending
        return [f"embedder logs {min(pending)} -f {flags}"] if pending else []
    if not may_pass or chunks.running or chunks.waiting:
        return []
    if release.worker.is_gone:
        values = "--reuse-values --set topUp.enabled=true"
        return [f"helm upgrade {release.name} <chart> -n {release.cluster.namespace} {values}"]
    return [f"embedder topup {flags}"]


def _listed(chunk: int, pod: Pod | None) -> FailedImages | None:
    """Return the failed images of the chunk if it has left a list of them."""
    images = failed_images(chunk, pod) if pod is not None else None
    return images if images is not None and images.is_listed else None


def _remedies(release: Release, failures: Mapping[int, Pod | None]) -> str:
    """Return the options of `embedder rerun` that can help: more memory, another setting."""
    ended: list[tuple[Pod, PodEnd]] = [(pod, pod.end) for pod in failures.values() if pod is not None and pod.end]
    starved = next((pod for pod, end in ended if end.is_out_of_memory), None)
    memory = doubled(memory_of(release.objects[starved.job])) if starved is not None else ""
    options = f" --memory {memory}" if memory else ""
    if any(end.exit_code == ExitCode.CONFIG_ERROR or _may_be_a_setting(pod.failed_images) for pod, end in ended):
        options += " --set-env NAME=VALUE"
    return options


def _may_be_a_setting(failed: Mapping[str, int]) -> bool:
    """Return whether another setting may help against the most frequent reason of a chunk's failed images.

    A source that asks for fewer requests gets a pace of its own, and more requests would make it worse.
    """
    return bool(failed) and max(failed, key=failed.__getitem__) not in {Reason.RATE_LIMITED, Reason.DEFERRED}
