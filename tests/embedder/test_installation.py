"""The console script after an installation without extras."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.logs import LogLine, parse_line

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def add_with_dependencies(found: set[tuple[str, str]], text: str, *, extra: str = "") -> None:
    """Add the distribution that a requirement names, and those that it depends on, as pairs of a name and an extra."""
    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        return
    name = canonicalize_name(requirement.name)
    for each in ("", *requirement.extras):
        if (name, each) not in found:
            found.add((name, each))
            for dependency in distribution(name).requires or []:
                add_with_dependencies(found, dependency, extra=each)


@pytest.fixture(scope="module")
def base_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to the libraries of an installation without extras, and to no others."""
    folder = tmp_path_factory.mktemp("base-install")
    found: set[tuple[str, str]] = set()
    for dependency in PROJECT["dependencies"]:
        add_with_dependencies(found, dependency)
    assert ("torch", "") not in found
    tops = {(name, path.parts[0]) for name, _ in found for path in distribution(name).files or []}
    tops |= {("embedder", each.parts[0]) for each in distribution("embedder").files or [] if "dist-info" in str(each)}
    for name, top in tops:
        if top not in {"..", "__pycache__"} and not (folder / top).exists():
            (folder / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return folder


def embedder(folder: Path, base_install: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the console script in `folder` with these libraries alone, without a cluster."""
    (folder / "tmp").mkdir()
    environment = {"KUBECONFIG": str(folder / "kubeconfig"), "TMPDIR": str(folder / "tmp"), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-S", "-P", "-c", "from embedder.cli import main; main()", *arguments],
        cwd=folder,
        env=os.environ | environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{base_install}"},
        capture_output=True,
        text=True,
        check=False,
    )


def only_line(text: str) -> LogLine:
    (line,) = text.splitlines()
    parsed = parse_line(line)
    assert parsed is not None
    return parsed


@pytest.mark.parametrize("command", [[], ["run"], ["search"], ["export"], ["status"], ["logs"], ["rerun"]])
def test_every_help_works_without_extras(tmp_path: Path, base_install: Path, command: list[str]) -> None:
    done = embedder(tmp_path, base_install, *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("command", [["status"], ["logs", "3"], ["rerun", "--chunks", "1"]])
def test_the_commands_for_a_cluster_work_without_extras(tmp_path: Path, base_install: Path, command: list[str]) -> None:
    done = embedder(tmp_path, base_install, *command)
    assert done.returncode == 78
    assert only_line(done.stderr).values["message"].startswith(f"there is no kubeconfig at {tmp_path}/kubeconfig")


def test_embedder_index_without_hnswlib_says_what_to_install(tmp_path: Path, base_install: Path) -> None:
    done = embedder(tmp_path, base_install, "index", "out")
    assert done.returncode == 78
    message = only_line(done.stderr).values["message"]
    assert message.startswith(
        "embedder index needs hnswlib, which is not installed; install the embedder with its extra"
    )


def test_embedder_run_without_the_workers_libraries_says_what_to_install_and_starts_nothing(
    tmp_path: Path, base_install: Path
) -> None:
    (tmp_path / "list.csv").write_text("url\nhttps://example.org/1.jpg\n")
    done = embedder(tmp_path, base_install, "run", "list.csv", "out")
    assert done.returncode == 78
    message = only_line(done.stderr).values["message"]
    for requirement in map(Requirement, PROJECT["optional-dependencies"]["worker"]):
        is_there = (base_install / requirement.name).exists()  # such as urllib3, which boto3 needs too
        assert (f" {requirement.name}," in message or f" {requirement.name};" in message) is not is_there
    assert "install the embedder with its extra `worker`: run uv tool install '.[worker]'" in message
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_search_without_the_workers_libraries_says_what_to_install(tmp_path: Path, base_install: Path) -> None:
    done = embedder(tmp_path, base_install, "search", "out", "two dogs")
    assert done.returncode == 78
    assert only_line(done.stderr).values["message"].startswith("embedder search needs the libraries of the worker, and")
