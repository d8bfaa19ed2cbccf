"""The rendered objects are valid against Kubernetes' own schemas, in every version that the chart supports."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

import kubernetes_validate
import pytest
import yaml

from tests.charts.helm import CHART, render, value_sets
from tests.charts.objects import of_kind

if TYPE_CHECKING:
    from pathlib import Path

FLOOR = 31
"""The minor version of the oldest Kubernetes 1.x that the chart supports."""

CUSTOM = {"PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, for which Kubernetes has no schema."""


def versions() -> list[str]:
    newest = int(kubernetes_validate.latest_version().split(".")[1])
    return [f"1.{minor}" for minor in range(FLOOR, newest + 1)]


def test_the_tested_versions_are_those_that_the_chart_supports() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">=1.{FLOOR}.0-0"
    assert versions()[0] == "1.31"
    assert len(versions()) >= 7


@pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)
def test_the_objects_are_valid_in_every_version(values: Path) -> None:
    objects = render(files=(values,))
    assert of_kind(objects, "Job")
    for each in objects:
        if each["kind"] not in CUSTOM:
            validate_in_every_version(json.dumps(each))


@cache
def validate_in_every_version(text: str) -> None:
    """Raise ValidationError if the object is invalid in a version. Cached, since many sets render the same object."""
    for version in versions():
        assert kubernetes_validate.validate(json.loads(text), version, strict=True) == version


def test_an_unknown_field_is_an_error() -> None:
    job = of_kind(render(), "Job")[0]
    wrong = json.loads(json.dumps(job).replace("podReplacementPolicy", "podReplacementPolice"))
    with pytest.raises(kubernetes_validate.ValidationError, match="podReplacementPolice"):
        kubernetes_validate.validate(wrong, versions()[0], strict=True)
