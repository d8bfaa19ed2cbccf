"""When a query's vector may be compared with those of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import FingerprintMismatch
from common.format.provenance import Provenance
from embedder.query.identity import QueryModel, check_same_model

COMMIT = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
RUN = Provenance(
    manifest="csv 1",
    chunk_count=1,
    model="openai/clip",
    model_revision=COMMIT,
    weights=f"sha256:{'a' * 64}",
    dtype="float16",
    preprocessing="openai-square-2",
    rotation=True,
    sources="url",
)
QUERY = QueryModel(
    model="openai/clip",
    revision=COMMIT,
    weights=f"sha256:{'a' * 64}",
    preprocessing="openai-square-2",
    is_untrained=False,
    dimensions=512,
)


def test_the_same_weights_are_the_same_model_wherever_they_lie() -> None:
    check_same_model(RUN, QUERY._replace(model="/models", revision=""), name="out")


def test_one_commit_of_the_hub_is_one_model_although_a_vision_tower_has_another_hash() -> None:
    check_same_model(RUN, QUERY._replace(weights=f"sha256:{'b' * 64}"), name="out")


@pytest.mark.parametrize(
    ("model", "revision"),
    [("openai/clip", "main"), ("openai/clip", COMMIT[::-1]), ("other/clip", COMMIT), ("/models", "")],
)
def test_other_weights_are_another_model_and_both_are_named(model: str, revision: str) -> None:
    query = QUERY._replace(model=model, revision=revision, weights=f"sha256:{'b' * 64}")
    with pytest.raises(FingerprintMismatch) as mismatch:
        check_same_model(RUN, query, name="out")
    message = str(mismatch.value)
    assert "out were made by openai/clip at 3d74acf9a28c with weights sha256:aaaaaaaaaaaa" in message
    assert "weights sha256:bbbbbbbbbbbb; name the folder of the run's model with --model FOLDER" in message


def test_a_name_without_a_commit_says_nothing_of_the_weights() -> None:
    run = replace(RUN, model="clip", model_revision="main")
    with pytest.raises(FingerprintMismatch):
        check_same_model(run, QUERY._replace(model="clip", revision="main", weights="sha256:b"), name="out")


def test_another_preprocessing_is_told_with_its_remedy() -> None:
    with pytest.raises(FingerprintMismatch, match=r"prepared as openai-square-1.*search with the version"):
        check_same_model(replace(RUN, preprocessing="openai-square-1"), QUERY, name="out")


def test_random_weights_of_other_libraries_are_other_weights() -> None:
    run = replace(
        RUN, model="untrained", model_revision="", weights="ViT-B/32 untrained seed-0 torch-2.9 transformers-5"
    )
    query = QUERY._replace(
        model="untrained", revision="", is_untrained=True, weights="ViT-B/32 untrained seed-0 torch-2.10 transformers-5"
    )
    with pytest.raises(FingerprintMismatch, match=r"torch-2\.9 .*torch-2\.10 .*depend on the libraries"):
        check_same_model(run, query, name="out")
