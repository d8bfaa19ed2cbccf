"""The package of the chart: what is in it, and that Helm installs it from a registry."""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.charts.helm import CHART, REQUIRED, ROOT, HelmError, helms, objects, run_helm
from tests.charts.objects import containers, of_kind
from tests.charts.registry import registry_server
from tools.chart_package import PLACEHOLDER_SOURCE, Release, WrongRelease, changes_of, main, package, release_version
from tools.documents import local_links

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.charts.registry import Registry

VERSION = release_version()
SOURCE = "https://github.com/acme/clip"
EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(Release(VERSION, "ghcr.io/acme/clip", SOURCE), tmp_path_factory.mktemp("chart"))


@pytest.fixture(scope="module")
def files(archive: Path) -> dict[str, str]:
    """Return the text of each file in the package, by its path in the chart."""
    with tarfile.open(archive) as opened:
        found: dict[str, str] = {}
        for member in opened.getmembers():
            content = opened.extractfile(member)
            if content is not None:
                found[member.name.removeprefix("embedder/")] = content.read().decode()
        return found


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_server() as running:
        yield running


def test_program_and_chart_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == VERSION
    assert release_version(f"v{VERSION}") == VERSION


def test_a_tag_of_another_version_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WrongRelease, match=r"the tag says 9\.9\.9; set the same version everywhere"):
        release_version("v9.9.9")
    assert main(["--tag", "v9.9.9"]) == 1
    assert "the tag says 9.9.9" in capsys.readouterr().err


def test_the_package_holds_what_a_user_reads_and_helm_needs_and_no_examples(files: dict[str, str]) -> None:
    assert {"Chart.yaml", "LICENSE", "README.md", "values.yaml", "values.schema.json", "dashboards/run.json"} <= set(
        files
    )
    assert not [name for name in files if name.startswith("examples/")]
    templates = {f"templates/{path.relative_to(CHART / 'templates')}" for path in (CHART / "templates").rglob("*.*")}
    assert {name for name in files if name.startswith("templates/")} == templates


def test_the_packages_default_images_are_those_of_the_release(files: dict[str, str]) -> None:
    assert yaml.safe_load(files["values.yaml"])["image"]["registry"] == "ghcr.io/acme/clip"
    values, original = files["values.yaml"].splitlines(), (CHART / "values.yaml").read_text("utf-8").splitlines()
    assert [line for line, before in zip(values, original, strict=True) if line != before] == [
        '  registry: "ghcr.io/acme/clip"'
    ]


def test_chart_yaml_has_what_artifact_hub_shows(files: dict[str, str]) -> None:
    chart = yaml.safe_load(files["Chart.yaml"])
    hub = {name.removeprefix("artifacthub.io/"): text for name, text in chart["annotations"].items()}
    assert (hub["license"], hub["category"], hub["prerelease"]) == ("MIT", "ai-machine-learning", "false")
    assert yaml.safe_load(hub["images"]) == [
        {"name": name, "image": f"ghcr.io/acme/clip/{name}:{VERSION}"} for name in ("embedder-gpu", "embedder-merge")
    ]
    assert all(link["url"].startswith(f"{SOURCE}/blob/v{VERSION}/") for link in yaml.safe_load(hub["links"]))
    assert all({"kind", "description"} == set(change) for change in yaml.safe_load(hub["changes"]))
    assert (chart["home"], chart["sources"]) == (SOURCE, [SOURCE])
    # Every address leads to a file of this repository at the tag.
    for path in re.findall(rf"{re.escape(SOURCE)}/(?:blob|raw)/v{re.escape(VERSION)}/(\S+)", files["Chart.yaml"]):
        assert (ROOT / path).is_file(), path
    assert PLACEHOLDER_SOURCE not in "".join(files.values())


def test_the_packages_readme_links_to_the_tag_and_names_the_chart_in_the_registry(files: dict[str, str]) -> None:
    text = files["README.md"]
    assert [link for link in local_links(text) if not link.startswith("#")] == []
    linked = re.findall(rf"\]\({re.escape(SOURCE)}/blob/v{re.escape(VERSION)}/([^)#]+)", text)
    assert len(linked) > 5
    for path in linked:
        assert (ROOT / path).is_file(), path
    command = f"helm install embedder oci://ghcr.io/acme/clip/charts/embedder --version {VERSION} "
    assert command in text
    assert "OWNER" not in text
    assert f"oci://ghcr.io/acme/clip/charts/embedder --version {VERSION}" in files["templates/NOTES.txt"]
    assert "charts/ " not in files["templates/NOTES.txt"]
    assert '"charts/"' not in files["templates/NOTES.txt"]


def test_the_readme_in_the_repository_names_this_version() -> None:
    text = (CHART / "README.md").read_text("utf-8")
    assert set(re.findall(r"--version (\S+?)`", text)) == {VERSION}


@EVERY_HELM
def test_helm_pushes_the_package_and_installs_it_from_the_registry(
    archive: Path, registry: Registry, program: str, tmp_path: Path
) -> None:
    environment = {"HELM_CACHE_HOME": str(tmp_path), "HELM_REGISTRY_CONFIG": str(tmp_path / "registry.json")}

    def helm(*arguments: str) -> str:
        return run_helm(*arguments, "--plain-http", program=program, environment=environment)

    charts = f"oci://{registry.address}/acme/clip/charts"
    helm("push", str(archive), charts)
    assert list(registry.tags["acme/clip/charts/embedder"]) == [VERSION]
    annotations = registry.manifest("acme/clip/charts/embedder", VERSION)["annotations"]
    assert isinstance(annotations, dict)
    assert annotations["org.opencontainers.image.source"] == SOURCE

    chart = (f"{charts}/embedder", "--version", VERSION)
    rendered = list(objects(helm("template", "clip", *chart, "--values", str(REQUIRED))))
    images = {each["image"] for job in of_kind(rendered, "Job") for each in containers(job)}
    assert images == {f"ghcr.io/acme/clip/{name}:{VERSION}" for name in ("embedder-gpu", "embedder-merge")}
    assert "| `chunks.count` |" in helm("show", "readme", *chart)


@EVERY_HELM
def test_a_misspelt_value_is_refused_by_the_packages_schema_too(archive: Path, program: str) -> None:
    with pytest.raises(HelmError, match="parallelsim"):
        run_helm("template", str(archive), "--values", str(REQUIRED), "--set", "worker.parallelsim=1", program=program)


def test_a_package_for_this_machine_keeps_the_charts_own_values(tmp_path: Path) -> None:
    local = package(Release(VERSION, "", PLACEHOLDER_SOURCE), tmp_path)
    with tarfile.open(local) as opened:
        values = opened.extractfile("embedder/values.yaml")
        assert values is not None
        assert values.read() == (CHART / "values.yaml").read_bytes()


def test_the_changes_of_a_version_are_those_of_its_section() -> None:
    text = (
        "# Changelog\n\n## 1.1.0 (unreleased)\n\n### Added\n\n- One that\n  goes on ([here](a.md)).\n- Two.\n\n"
        "### Fixed\n\n- Three.\n\n## 1.0.0\n\n- Four.\n"
    )
    assert changes_of(text, "1.1.0") == [
        {"kind": "added", "description": "One that goes on (here)."},
        {"kind": "added", "description": "Two."},
        {"kind": "fixed", "description": "Three."},
    ]
    assert changes_of(text, "2.0.0") == []


def test_the_workflow_pushes_the_package_that_these_tests_made() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8"))
    job = workflow["jobs"]["chart"]
    assert job["needs"] == "image"
    script = "\n".join(step.get("run", "") for step in job["steps"])
    options = set(re.findall(r"(--\w+) \"", script)) - {"--username"}
    assert options == {"--registry", "--tag", "--source"}
    assert "python -m tools.chart_package" in script
    assert 'helm push build/chart/embedder-*.tgz "oci://ghcr.io/${GITHUB_REPOSITORY,,}/charts"' in script
