"""Every set of values renders to objects that Kubernetes' own schemas take, in every version the chart supports."""

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
"""The chart's kubeVersion, as 1.x."""

CUSTOM = {"PodMonitor"}
"""Of the Prometheus operator: no schema of Kubernetes."""


def versions() -> list[str]:
    newest = int(kubernetes_validate.latest_version().split(".")[1])
    return [f"1.{minor}" for minor in range(FLOOR, newest + 1)]


def test_the_versions_are_those_the_chart_says_it_supports() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">=1.{FLOOR}.0-0"
    assert versions()[0] == "1.31"
    assert len(versions()) >= 7


@pytest.mark.parametrize("values", value_sets(), ids=lambda path: path.stem)
def test_the_objects_are_valid_in_every_version(values: Path) -> None:
    objects = render(files=(values,))
    assert len(of_kind(objects, "Job")) >= 2
    for each in objects:
        if each["kind"] not in CUSTOM:
            validate_in_every_version(json.dumps(each))


@cache
def validate_in_every_version(text: str) -> None:
    """Raise ValidationError where a version's schema does not take the object. Many are the same in many sets."""
    for version in versions():
        assert kubernetes_validate.validate(json.loads(text), version, strict=True) == version


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    job = of_kind(render(), "Job")[0]
    wrong = json.loads(json.dumps(job).replace("podReplacementPolicy", "podReplacementPolice"))
    with pytest.raises(kubernetes_validate.ValidationError, match="podReplacementPolice"):
        kubernetes_validate.validate(wrong, versions()[0], strict=True)
