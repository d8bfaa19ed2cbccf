"""Packages the chart for a registry: `python -m tools.chart_package`, as in `make chart` and the workflow `publish`.

In the repository, the chart names no registry, and its README links to files beside it. In the package, image.registry
is the registry to which the images of the same release are pushed, links lead to the tag of the release, commands name
the chart in the registry, and Chart.yaml has what Artifact Hub shows of a release.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from posixpath import normpath
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from tests.charts.helm import CHART, ROOT, run_helm
from tools.documents import local_links

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PACKAGES = ROOT / "build" / "chart"

PLACEHOLDER_SOURCE = "https://git.example.com/team/embedder"
"""The address of the repository in Chart.yaml."""

PLACEHOLDER_REGISTRY = "ghcr.io/OWNER/REPOSITORY"
"""The registry in the chart's README."""

KINDS = {"Added": "added", "Changed": "changed", "Deprecated": "deprecated", "Removed": "removed", "Fixed": "fixed"}
"""Artifact Hub's kind of a change, by the heading in CHANGELOG.md."""


class WrongRelease(Exception):
    """The parts of the release do not fit together. The message says which, and what to do."""


class Release(NamedTuple):
    version: str
    registry: str
    """Registry and path of the images, as ghcr.io/team/embedder. Empty: the chart names no registry."""
    source: str
    """Address of the repository."""

    @property
    def tag(self) -> str:
        return f"v{self.version}"

    @property
    def chart(self) -> str:
        """How Helm names the chart."""
        return f"oci://{self.registry}/charts/embedder --version {self.version}" if self.registry else "charts/"


def release_version(tag: str = "") -> str:
    """Return the version of program and chart. Raises WrongRelease if they differ, or if `tag` names another one."""
    program = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    named = {"pyproject.toml": program, "version in Chart.yaml": chart["version"], "appVersion": chart["appVersion"]}
    if tag:
        named["the tag"] = tag.removeprefix("v")
    if len(set(named.values())) > 1:
        found = ", ".join(f"{name} says {version}" for name, version in named.items())
        raise WrongRelease(f"{found}; set the same version everywhere, as CONTRIBUTING.md says")
    return str(program)


def package(release: Release, target: Path = PACKAGES) -> Path:
    """Write the package of the chart into `target` and return its path. Raises HelmError if Helm refuses the chart."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "embedder"
        shutil.copytree(CHART, staged)
        shutil.copy(ROOT / "LICENSE", staged)
        _rewrite(staged / "Chart.yaml", lambda text: chart_metadata(text, release))
        _rewrite(staged / "README.md", lambda text: with_commands(with_absolute_links(text, release), release))
        _rewrite(staged / "templates" / "NOTES.txt", lambda text: with_commands(text, release))
        for name in ("values.yaml", "defaults.yaml"):
            _rewrite(staged / name, lambda text: with_registry(text, release.registry))
        run_helm("lint", "--strict", str(staged), "--values", str(CHART / "examples" / "required.yaml"))
        run_helm("package", str(staged), "--destination", str(target))
    return target / f"embedder-{release.version}.tgz"


def chart_metadata(text: str, release: Release) -> str:
    """Return Chart.yaml with the address of the repository and the annotations of the release."""
    text = text.replace(f"{PLACEHOLDER_SOURCE}/blob/main/", f"{release.source}/blob/{release.tag}/")
    text = text.replace(f"{PLACEHOLDER_SOURCE}/raw/main/", f"{release.source}/raw/{release.tag}/")
    metadata: dict[str, Any] = yaml.safe_load(text.replace(PLACEHOLDER_SOURCE, release.source))
    annotations = metadata["annotations"]
    annotations["artifacthub.io/prerelease"] = str("-" in release.version).lower()
    if release.registry:
        images = [
            {"name": name, "image": f"{release.registry}/{name}:{release.version}"}
            for name in ("embedder-gpu", "embedder-merge")
        ]
        annotations["artifacthub.io/images"] = yaml.safe_dump(images, sort_keys=False)
    if changes := changes_of((ROOT / "CHANGELOG.md").read_text("utf-8"), release.version):
        annotations["artifacthub.io/changes"] = yaml.safe_dump(changes, sort_keys=False, allow_unicode=True)
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)


def changes_of(changelog: str, version: str) -> list[dict[str, str]]:
    """Return the entries of the version's section as Artifact Hub reads them; none if there is no such section."""
    section = re.search(rf"^## {re.escape(version)}\b.*?\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    found: list[dict[str, str]] = []
    for part in re.split(r"^### ", section[1], flags=re.MULTILINE)[1:] if section else []:
        heading, _, text = part.partition("\n")
        for entry in re.split(r"^- ", text, flags=re.MULTILINE)[1:]:
            description = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(entry.split()))
            found.append({"kind": KINDS.get(heading, "changed"), "description": description})
    return found


def with_absolute_links(text: str, release: Release) -> str:
    """Return the chart's README with links to the files at the release's tag instead of relative ones."""
    for link in set(local_links(text)):
        path, _, anchor = link.partition("#")
        if path:
            absolute = f"{release.source}/blob/{release.tag}/{normpath(f'charts/{path}')}"
            text = text.replace(f"]({link})", f"]({absolute}{'#' if anchor else ''}{anchor})")
    return text


def with_commands(text: str, release: Release) -> str:
    """Return a text whose Helm commands name the chart in the registry. Its images' registry is then the default."""
    if not release.registry:
        return text
    text = text.replace(PLACEHOLDER_REGISTRY, release.registry)
    return re.sub(r'(?<=[ "])charts/(?: --set image\.registry=\S+)?(?=[ "])', release.chart, text)


def with_registry(text: str, registry: str) -> str:
    """Return values.yaml or defaults.yaml with `registry` as the default of image.registry."""
    text, count = re.subn(
        r"""^(image:\n(?: +#.*\n)* +registry:) (["'])\2$""", rf"\1 \g<2>{registry}\2", text, flags=re.MULTILINE
    )
    if count != 1:
        raise WrongRelease("the values do not begin image: with an empty registry; repair with_registry")
    return text


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text("utf-8")), "utf-8")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.chart_package", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--registry", default="", help="registry and path of the images, as ghcr.io/team/embedder")
    parser.add_argument("--source", default=PLACEHOLDER_SOURCE, help="address of the repository")
    parser.add_argument("--tag", default="", help="tag of the release, which must be that of the version")
    options = parser.parse_args(arguments)
    try:
        release = Release(release_version(options.tag), options.registry.lower().strip("/"), options.source.strip("/"))
    except WrongRelease as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{package(release)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
