"""Every setting of the programs has a value in the chart, and the program receives what the value says."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml

from common.settings import ENV_PREFIX, read_settings, sections_of, settings_of
from merger.settings import MergerSettings
from results.index.settings import IndexSettings
from tests.charts.helm import CHART, objects, render, template
from tests.charts.objects import Object, containers, environment, named
from tools.values_reference import VALUES, documented_values, value_at
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from pathlib import Path

GROUPS: dict[type[object], str] = {WorkerSettings: "worker", MergerSettings: "merge", IndexSettings: "index"}

ELSEWHERE = {
    "run_uri": "run.uri",
    "log_level": "run.logLevel",
    "chunk_count": "chunks.count",
    "manifest_uri": "manifest.uri",
    "ids_uri": "manifest.idsUri",
    "manifest_format": "manifest.format",
    "max_listed_files": "manifest.maxListedFiles",
    "openimages_url": "manifest.openimagesUrl",
    "manifest_columns": "manifest.columns",
    "subset": "manifest.subset",
    "url_column": "manifest.urlColumn",
    "id_column": "manifest.idColumn",
    "image_column": "manifest.imageColumn",
    "index_m": "index.m",
    "index_ef_construction": "index.efConstruction",
    "index_threads": "index.threads",
    "index_min_recall": "index.minRecall",
    "index_recall_queries": "index.recallQueries",
    "s3_addressing": "s3.addressing",
    "s3_encryption": "s3.encryption",
    "s3_kms_key_id": "s3.kmsKeyId",
    "s3_requester_pays": "s3.requesterPays",
    "gpu_hour_price": "gpuHourPrice",
}
"""Path of the value, for settings whose value is in another group than that of their program."""

NO_VALUE = {
    "job_completion_index",  # Kubernetes sets it
    "chunk_indexes",  # rerun.chunks sets it, in the Job of the rerun
    "top_up",  # topUp.enabled sets it, in the Job of the top-up
    "top_up_reasons",  # topUp.reasons sets it there
    "counted_failures",  # Kubernetes counts them, in an annotation of the pod
    "uncounted_failures",  # Kubernetes counts them, in an annotation of the pod
    "on_missing_chunks",  # merge.onFailedChunks sets it
    "metrics_port",  # metrics.enabled and metrics.port set it
    "manifest_token",  # manifest.token names a Secret with it
    "ca_bundle",  # tls.caBundle sets it
    "index_folder",  # index.scratch mounts it
}
"""Settings without a value of their own."""

SET_BY_THE_CHART = {
    "run_uri",
    "chunk_count",
    "counted_failures",
    "uncounted_failures",
    "manifest_uri",
    "model",
    "device",
    "decode_threads",
    "index_threads",
    "index_folder",
}
"""Settings that a default render sets; all others keep the program's default."""

SAMPLES: dict[str, Any] = {
    "run_uri": "s3://other-bucket/other",
    "chunk_count": 77,
    "manifest_uri": "https://example.com/list.csv",
    "sources": "thumbnail,original",
    "max_rate_per_site": 4.5,
    "site_rates": "flickr.com=2,example.org=0.5",
    "user_agent": 'embedder/{version} (https://example.com; "quoted" $HOME $(HOME) $$)',
    "max_failure_ratio": 0.05,
    "index_min_recall": 0.97,
    "max_inflight_bytes": 2_147_483_648,
}
"""Valid values of the fields for which `sample` cannot make one."""

INDEX = "index.enabled=true"

FOR_ALL = {"EMBEDDER_METRICS_PORT", "EMBEDDER_CHUNK_COUNT"}
"""Variables that the chart gives every program, whether it reads them or not."""

FIELDS = [(kind, field) for kind in GROUPS for field in settings_of(kind) if field not in NO_VALUE]

DECIMALS = [(kind, field) for kind, field in FIELDS if settings_of(kind)[field].field.annotation is float]


def value_path(kind: type[object], field: str) -> str:
    first, *others = field.split("_")
    return ELSEWHERE.get(field, f"{GROUPS[kind]}.{first}{''.join(word.title() for word in others)}")


def program(objects: list[Object], kind: type[object]) -> Object:
    """Return the environment variables of the worker, the merger or the indexer, as the program sees them."""
    container = containers(named(objects, "Job", f"embedder-{GROUPS[kind]}"))[-1]
    # Kubernetes reads $$ as $.
    return {
        name: value.replace("$$", "$") if isinstance(value, str) else value
        for name, value in environment(container).items()
    }


def sample(kind: type[object], field: str) -> Any:  # noqa: ANN401 - of the field's type
    """Return a valid value of the field, other than its default."""
    info = settings_of(kind)[field].field
    if field in SAMPLES:
        return SAMPLES[field]
    if choices := get_args(info.annotation):
        return next(choice for choice in reversed(choices) if choice != info.default)
    if info.annotation is bool:
        return not info.default
    return info.default + 1 if info.annotation in {int, float} else f"some-{field}"


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_the_schema_of_a_value_has_the_type_and_limits_of_its_setting(kind: type[object], field: str) -> None:
    path = value_path(kind, field)
    assert value_at(yaml.safe_load(VALUES.read_text()), path) in (None, "")
    schema = json.loads((CHART / "values.schema.json").read_text())
    found = value_at(schema, "properties." + path.replace(".", ".properties."))
    expected = settings_of(kind)[field].section.model_json_schema(by_alias=False)["properties"][field]
    kinds = found["type"] if isinstance(found["type"], list) else [found["type"]]
    assert kinds[0] == expected["type"]
    for limit in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        assert found.get(limit) == expected.get(limit), limit
    assert found.get("enum", [None]) == [*expected.get("enum", []), None]


@pytest.mark.parametrize(("kind", "field"), FIELDS)
def test_the_comment_states_the_programs_default(kind: type[object], field: str) -> None:
    (description,) = (value.description for value in documented_values() if value.path == value_path(kind, field))
    default = settings_of(kind)[field].field
    if default.is_required():
        assert description.startswith("(required)")
        return
    stated = re.search(r"Program's default: (.+)\.$", description)
    assert stated, description
    assert stated[1] == (json.dumps(default.default).strip('"').removesuffix(".0") or "none")


@pytest.mark.parametrize("kind", GROUPS)
def test_the_program_receives_a_value_that_is_set(
    kind: type[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {field: sample(kind, field) for of, field in FIELDS if of is kind}
    values: Object = {}
    for field, value in expected.items():
        *group, name = value_path(kind, field).split(".")
        (values.setdefault(group[0], {}) if group else values)[name] = value
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    variables = program(render(INDEX, files=(tmp_path / "values.yaml",)), kind)
    for field in expected:
        variable = settings_of(kind)[field].variable
        monkeypatch.setenv(variable, variables[variable])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    read = read_settings(kind)
    sections: list[Any] = [getattr(read, name) if name else read for name in sections_of(kind)]
    found = {field: value for section in sections for field, value in section.model_dump().items()}
    assert {field: found[field] for field in expected} == expected


@pytest.mark.parametrize(("kind", "field"), DECIMALS)
def test_set_takes_a_decimal_number_though_helm_makes_text_of_it(kind: type[object], field: str) -> None:
    variables = program(render(f"{value_path(kind, field)}=0.5", INDEX), kind)
    assert variables[settings_of(kind)[field].variable] == "0.5"


@pytest.mark.parametrize("kind", GROUPS)
def test_a_value_that_is_not_set_sets_no_variable(kind: type[object]) -> None:
    variables = {name for name in program(render(INDEX), kind) if name.startswith(ENV_PREFIX)}
    ours = {settings_of(kind)[field].variable for field in SET_BY_THE_CHART if field in settings_of(kind)}
    assert variables - FOR_ALL == ours - FOR_ALL


@pytest.mark.parametrize("kind", GROUPS)
def test_the_chart_sets_no_variable_that_the_program_does_not_read(kind: type[object]) -> None:
    objects = render(INDEX, "metrics.enabled=true", "merge.onFailedChunks=partial")
    known = {setting.variable for setting in settings_of(kind).values()} | FOR_ALL
    assert {name for name in program(objects, kind) if name.startswith(ENV_PREFIX)} <= known


def test_a_worker_with_a_gpu_runs_on_cuda_unless_told_otherwise() -> None:
    assert program(render(), WorkerSettings)["EMBEDDER_DEVICE"] == "cuda"
    assert "EMBEDDER_DEVICE" not in program(render("gpu.count=0"), WorkerSettings)
    assert program(render("worker.device=auto"), WorkerSettings)["EMBEDDER_DEVICE"] == "auto"


def test_extra_variables_take_precedence_over_those_of_the_chart() -> None:
    variables = program(
        render("worker.batchSize=512", "worker.extraEnv[0].name=EMBEDDER_BATCH_SIZE", "worker.extraEnv[0].value=7"),
        WorkerSettings,
    )
    assert variables["EMBEDDER_BATCH_SIZE"] == "7"


@pytest.mark.parametrize(
    ("assignments", "region"),
    [
        ((), None),
        (("s3.region=eu-central-1",), "eu-central-1"),
        (("s3.endpointUrl=https://s3.us-west-004.backblazeb2.com",), None),  # the program reads it from the host
        (("s3.endpointUrl=http://minio:9000", "s3.region=home"), "home"),
    ],
)
def test_the_store_is_configured_by_the_sdks_own_variables(assignments: tuple[str, ...], region: str | None) -> None:
    objects = render(INDEX, *assignments)
    for kind in GROUPS:
        variables = program(objects, kind)
        assert variables.get("AWS_REGION") == variables.get("AWS_DEFAULT_REGION") == region
        assert ("AWS_ENDPOINT_URL_S3" in variables) == any("endpoint" in assignment for assignment in assignments)
        assert "AWS_ENDPOINT_URL" not in variables, "it would also be the endpoint of STS"


def test_a_variable_without_a_value_is_empty() -> None:
    worker = named(render("worker.extraEnv[0].name=SOME", "worker.extraEnv[0].value=null"), "Job", "embedder-worker")
    assert {"name": "SOME"} in containers(worker)[0]["env"]


@pytest.mark.parametrize("option", ["--set", "--set-string"])
def test_a_column_a_key_or_a_revision_of_digits_is_text(option: str) -> None:
    values = (
        "manifest.urlColumn=0",
        "manifest.idColumn=2024",
        "s3.kmsKeyId=1234567890",
        "worker.modelRevision=1234567",
    )
    arguments = [argument for value in (*values, "s3.region=1") for argument in (option, value)]
    variables = program(list(objects(template(*arguments))), WorkerSettings)
    assert variables["EMBEDDER_URL_COLUMN"] == "0"
    assert variables["EMBEDDER_ID_COLUMN"] == "2024"
    assert variables["EMBEDDER_S3_KMS_KEY_ID"] == "1234567890"
    assert variables["EMBEDDER_MODEL_REVISION"] == "1234567"
    assert variables["AWS_REGION"] == "1"
