"""The files in k8s/manifests are the chart's default render."""

from __future__ import annotations

import yaml

from tools.manifests import MANIFESTS, NAMESPACE, rendered


def test_the_manifests_equal_the_default_render_of_the_chart() -> None:
    assert {path.name: path.read_text() for path in MANIFESTS.glob("*.yaml")} == rendered(), "run `make manifests`"


def test_the_manifests_use_the_namespace_that_their_readme_names() -> None:
    binding = yaml.safe_load((MANIFESTS / "merge-rolebinding.yaml").read_text())
    assert binding["subjects"][0]["namespace"] == NAMESPACE
    assert f"--namespace {NAMESPACE} " in (MANIFESTS / "README.md").read_text()
