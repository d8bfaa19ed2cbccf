"""NOTES.txt: the commands that `helm install` suggests."""

from __future__ import annotations

import re

import pytest

from tests.charts.helm import CHART, HELM_4, REQUIRED, packaged_helm, run_helm

pytestmark = pytest.mark.skipif(
    packaged_helm(HELM_4) is None, reason="needs the package of Helm 4: Helm 3 shows no notes without a cluster"
)


def notes(*assignments: str) -> str:
    """Return the notes of release clip in namespace team, with each of `assignments` as in --set."""
    arguments = [argument for assignment in assignments for argument in ("--set", assignment)]
    install = ("install", "clip", str(CHART), "--dry-run=client", "--namespace", "team", "--values", str(REQUIRED))
    return run_helm(*install, *arguments, program=packaged_helm(HELM_4)).partition("NOTES:")[2]


def test_the_notes_name_the_release_and_repeat_no_signature() -> None:
    text = notes("manifest.uri=https://example.com/list.csv?X-Amz-Signature=abc", "worker.model=untrained")
    for command in (
        "embedder status --release clip -n team --watch",
        "embedder logs 7 --release clip -n team",
        "batch.kubernetes.io/job-name=clip-worker,batch.kubernetes.io/job-completion-index=7",
        "embedder rerun --release clip -n team",
        "aws s3 cp s3://my-bucket/embedded/Images_Embedded.h5 .",
        "helm test clip -n team --logs",
        "the vectors mean nothing",
    ):
        assert command in text
    assert "abc" not in text


@pytest.mark.parametrize("count", [1, 6, 900])
def test_the_notes_suggest_a_chunk_that_exists(count: int) -> None:
    text = notes(f"chunks.count={count}")
    assert f"The run has {count} chunk" in text
    suggested = re.findall(r"(?:example chunk|embedder logs|job-completion-index=) ?([0-9]+)", text)
    assert len(suggested) == 3
    assert len(set(suggested)) == 1
    assert int(suggested[0]) in range(count)


@pytest.mark.parametrize(
    ("mode", "sentence", "ends"),
    [
        ("wait", "the merge waits for them and then continues by itself", False),
        ("fail", "the merge fails too", True),
        ("partial", "the merge leaves them out", True),
    ],
)
def test_the_notes_say_how_to_go_on_after_a_failed_chunk(mode: str, sentence: str, ends: bool) -> None:
    text = notes(f"merge.onFailedChunks={mode}")
    assert sentence in text
    merging_again = "kubectl delete job clip-merge -n team\n  helm upgrade clip charts/ -n team --reuse-values"
    assert (merging_again in text) == ends


@pytest.mark.parametrize(
    ("assignments", "place"),
    [
        (("run.uri=/run-volume/embedded", "run.pvc.claimName=embeddings"), "a file on the claim embeddings."),
        (
            ("run.uri=/data", "worker.extraVolumeMounts[0].name=data", "worker.extraVolumeMounts[0].mountPath=/data"),
            "a file on the volume that worker.extraVolumeMounts mounts.",
        ),
    ],
)
def test_the_notes_say_where_a_result_outside_of_s3_is(assignments: tuple[str, ...], place: str) -> None:
    text = notes(*assignments)
    assert f"The result is {place}" in text
    assert "aws s3" not in text


def test_the_notes_of_a_check_say_how_to_see_it_and_how_to_start_the_run() -> None:
    text = notes("check.enabled=true")
    for command in (
        "embedder check --release clip -n team",
        "app.kubernetes.io/component=check,embedder-release=clip",
        "helm upgrade clip charts/ -n team --reuse-values --set check.enabled=false",
    ):
        assert command in text
    assert "embedder status" not in text
