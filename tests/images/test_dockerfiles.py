"""The Dockerfiles: what they repeat from other files is equal, and what they set or leave out."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.format.provenance import program_version
from worker.memory import WORKER_MALLOC
from worker.settings import EncodeSettings

ROOT = Path(__file__).parents[2]
WORKER, MERGE = ((ROOT / f"Dockerfile.{kind}").read_text() for kind in ("gpu", "merge"))


def default(argument: str, text: str) -> str:
    """Return the default of a build argument in a Dockerfile, or of a variable in the Makefile."""
    found = re.search(rf"^(?:ARG )?{argument} ?\??=[ \t]*(.*)$", text, re.MULTILINE)
    assert found, argument
    return found[1]


def test_both_images_have_the_same_base_pinned_by_its_digest() -> None:
    assert default("BASE_IMAGE", WORKER) == default("BASE_IMAGE", MERGE)
    assert re.search(r"@sha256:[0-9a-f]{64}$", default("BASE_IMAGE", WORKER))


@pytest.mark.parametrize("text", [WORKER, MERGE])
def test_an_image_has_the_version_of_the_program(text: str) -> None:
    assert default("VERSION", text) == program_version()


def test_the_images_weights_are_those_that_the_worker_uses_by_default() -> None:
    fields = EncodeSettings.model_fields
    assert default("WEIGHTS_REVISION", WORKER) == fields["model_revision"].default
    assert default("WEIGHTS", (ROOT / "Makefile").read_text()) == fields["model"].default
    assert default("WEIGHTS", WORKER) == ""


def test_everything_that_pytorch_needs_is_pinned_and_in_its_layer() -> None:
    # The dependencies of torch, including those of its CUDA build. What these pin themselves needs no pin of ours.
    needed = {"torch", "cuda-bindings", "cuda-pathfinder", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath"}
    needed |= {"networkx", "nvidia-nvjitlink", "setuptools", "sympy", "typing-extensions"}
    pattern = re.search(r"grep -iE '(.*)'", WORKER)
    assert pattern
    command = ["grep", "-iE", pattern[1], "constraints.txt"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {canonicalize_name(line.partition("==")[0]) for line in lines} == needed


def requirements(text: str, folder: Path) -> set[str]:
    """Return the names of the packages in the requirements.txt that the Dockerfile's stage `pins` writes."""
    command = re.search(r"python3 -c '.*?>requirements\.txt", text, re.DOTALL)
    assert command
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    # A builder joins continued lines before the shell sees them.
    joined = command[0].replace("\\\n", "").replace("python3", sys.executable, 1)
    subprocess.run(["sh", "-c", joined], cwd=folder, check=True)
    return {name(line) for line in (folder / "requirements.txt").read_text().splitlines()}


def name(requirement: str) -> str:
    """Return the canonical name of the package that a requirement asks for."""
    return canonicalize_name(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])


@pytest.mark.parametrize(
    ("text", "extras", "left_out"), [(WORKER, ["worker"], {"kubernetes"}), (MERGE, [], {"rich", "typer"})]
)
def test_an_image_installs_the_dependencies_of_its_programs(
    text: str, extras: list[str], left_out: set[str], tmp_path: Path
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(each for extra in extras for each in project["optional-dependencies"][extra]),
    ]
    assert requirements(text, tmp_path) == {name(each) for each in declared} - left_out


def needed_by(requirements: list[str]) -> set[str]:
    """Return the canonical names of the required packages, of those that they require here, and so on."""
    found: set[tuple[str, str]] = set()  # a package and one of its extras, or ""
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        package = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in found if known == package}:
            found.add((package, extra))
            needed = map(Requirement, distribution(package).requires or [])
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {package for package, _ in found}


def test_everything_that_the_images_install_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {name(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extras = project["optional-dependencies"]
    assert needed_by([*project["dependencies"], *extras["worker"], *extras["index"]]) - pins == set()


def test_hnswlib_and_what_it_is_compiled_with_are_pinned() -> None:
    pattern = re.search(r"grep -E '(.*)' constraints\.txt >index\.txt", MERGE)
    assert pattern
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if re.match(pattern[1], line)]
    # hnswlib's build-system.requires, and what wheel requires.
    assert {name(line) for line in lines} == {"hnswlib", "numpy", "packaging", "pybind11", "setuptools", "wheel"}


def test_the_gate_and_the_merger_need_neither_rich_nor_typer() -> None:
    code = """
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys(("rich", "typer"))  # importing them fails
for name in ("k8s.gate", "merger"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), f"{name}."):
        importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_package_of_the_program_reaches_the_build() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests", "tools"}
    included = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert packages - included == set()


def test_the_workers_image_has_the_c_library_keep_freed_memory() -> None:
    final_stage = WORKER.rpartition("\nFROM ")[2]
    found = dict(re.findall(r"\b(MALLOC_[A-Z_]+)=([0-9]+)", final_stage))
    assert found == WORKER_MALLOC
