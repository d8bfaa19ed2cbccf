"""Every setting of the programs has its value in the chart, and arrives as it was given."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml

from common.settings import ENV_PREFIX, RunSettings, read_settings, setting_name
from merger.settings import MergerSettings
from tests.charts.helm import CHART, render
from tests.charts.objects import Object, containers, environment, named
from tools.values_reference import VALUES, documented_values, value_at
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from pathlib import Path

GROUPS: dict[type[RunSettings], str] = {WorkerSettings: "worker", MergerSettings: "merge"}

ELSEWHERE = {
    "run_uri": "run.uri",
    "log_level": "run.logLevel",
    "chunk_count": "chunks.count",
    "manifest_uri": "manifest.uri",
    "ids_uri": "manifest.idsUri",
    "manifest_format": "manifest.format",
    "url_column": "manifest.urlColumn",
    "id_column": "manifest.idColumn",
}
"""The values that do not stand in their program's own group."""

NO_VALUE = {
    "job_completion_index",  # Kubernetes sets it
    "chunk_indexes",  # rerun.chunks, of a Job of its own
    "on_missing_chunks",  # follows from merge.onFailedChunks
    "metrics_port",  # metrics.enabled and metrics.port
}

SET_BY_THE_CHART = {"run_uri", "chunk_count", "manifest_uri", "model", "device", "decode_threads"}
"""In a default render; the others are left to the program."""

SAMPLES: dict[str, Any] = {
    "run_uri": "s3://other-bucket/other",
    "chunk_count": 77,
    "manifest_uri": "https://example.com/list.csv",
    "sources": "thumbnail,original",
    "user_agent": 'embedder/{version} (https://example.com; "quoted" $HOME $(HOME) $$)',
    "max_failure_ratio": 0.05,
    "max_inflight_bytes": 2_147_483_648,
}

FIELDS = [(kind, field) for kind in GROUPS for field in kind.model_fields if field not in NO_VALUE]


def value_path(kind: type[RunSettings], field: str) -> str:
    first, *others = field.split("_")
    return ELSEWHERE.get(field, f"{GROUPS[kind]}.{first}{''.join(word.title() for word in others)}")


def program(objects: list[Object], kind: type[RunSettings]) -> Object:
    """Return the variables of the worker's or the merger's container, as the program would find them."""
    container = containers(named(objects, "Job", f"embedder-{GROUPS[kind]}"))[-1]
    # Kubernetes reads $$ as $.
    return {
        name: value.replace("$$", "$") if isinstance(value, str) else value
        for name, value in environment(container).items()
    }


def sample(kind: type[RunSettings], field: str) -> Any:  # noqa: ANN401 - of the field's type
    """Return a valid value of the field that is not its default."""
    info = kind.model_fields[field]
    if field in SAMPLES:
        return SAMPLES[field]
    if choices := get_args(info.annotation):
        return next(choice for choice in reversed(choices) if choice != info.default)
    if info.annotation is bool:
        return not info.default
    return info.default + 1 if info.annotation in {int, float} else f"some-{field}"


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_a_setting_has_a_value_that_the_schema_holds_to_the_same_limits(kind: type[RunSettings], field: str) -> None:
    path = value_path(kind, field)
    assert value_at(yaml.safe_load(VALUES.read_text()), path) in (None, "")
    schema = json.loads((CHART / "values.schema.json").read_text())
    found = value_at(schema, "properties." + path.replace(".", ".properties."))
    expected = kind.model_json_schema(by_alias=False)["properties"][field]
    kinds = found["type"] if isinstance(found["type"], list) else [found["type"]]
    assert kinds[0] == expected["type"]
    for limit in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        assert found.get(limit) == expected.get(limit), limit
    assert found.get("enum", [None]) == [*expected.get("enum", []), None]


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_the_comment_names_the_programs_default(kind: type[RunSettings], field: str) -> None:
    (description,) = (value.description for value in documented_values() if value.path == value_path(kind, field))
    default = kind.model_fields[field]
    if default.is_required():
        assert description.startswith("(required)")
        return
    stated = re.search(r"Program's default: (.+)\.$", description)
    assert stated, description
    assert stated[1] == (json.dumps(default.default).strip('"').removesuffix(".0") or "none")


@pytest.mark.parametrize("kind", GROUPS)
def test_a_value_that_is_given_arrives_at_the_program(
    kind: type[RunSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {field: sample(kind, field) for of, field in FIELDS if of is kind}
    values: Object = {}
    for field, value in expected.items():
        group, name = value_path(kind, field).split(".")
        values.setdefault(group, {})[name] = value
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    told = program(render(files=(tmp_path / "values.yaml",)), kind)
    for field in expected:
        monkeypatch.setenv(setting_name(kind, field), told[setting_name(kind, field)])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert read_settings(kind).model_dump(include=set(expected)) == expected


@pytest.mark.parametrize("kind", GROUPS)
def test_what_is_not_given_is_left_to_the_program(kind: type[RunSettings]) -> None:
    told = {name for name in program(render(), kind) if name.startswith(ENV_PREFIX)}
    assert told == {setting_name(kind, field) for field in SET_BY_THE_CHART if field in kind.model_fields}


@pytest.mark.parametrize("kind", GROUPS)
def test_the_chart_sets_no_variable_that_no_program_reads(kind: type[RunSettings]) -> None:
    objects = render("metrics.enabled=true", "merge.onFailedChunks=partial")
    known = {setting_name(kind, field) for field in kind.model_fields} | {"EMBEDDER_METRICS_PORT"}
    assert {name for name in program(objects, kind) if name.startswith(ENV_PREFIX)} <= known


def test_a_gpu_is_used_or_missed_but_never_replaced_by_the_cpu_unnoticed() -> None:
    assert program(render(), WorkerSettings)["EMBEDDER_DEVICE"] == "cuda"
    assert "EMBEDDER_DEVICE" not in program(render("gpu.count=0"), WorkerSettings)
    assert program(render("worker.device=auto"), WorkerSettings)["EMBEDDER_DEVICE"] == "auto"


def test_variables_of_ones_own_win_over_the_charts() -> None:
    told = program(
        render("worker.batchSize=512", "worker.extraEnv[0].name=EMBEDDER_BATCH_SIZE", "worker.extraEnv[0].value=7"),
        WorkerSettings,
    )
    assert told["EMBEDDER_BATCH_SIZE"] == "7"


@pytest.mark.parametrize(
    ("assignments", "region"),
    [
        ((), None),
        (("s3.region=eu-central-1",), "eu-central-1"),
        (("s3.endpointUrl=http://minio:9000",), "us-east-1"),
        (("s3.endpointUrl=http://minio:9000", "s3.region=home"), "home"),
    ],
)
def test_the_store_is_found_by_the_sdks_own_variables(assignments: tuple[str, ...], region: str | None) -> None:
    objects = render(*assignments)
    for kind in GROUPS:
        told = program(objects, kind)
        assert told.get("AWS_REGION") == region
        assert ("AWS_ENDPOINT_URL" in told) == any("endpoint" in assignment for assignment in assignments)
