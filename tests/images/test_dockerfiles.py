"""What the Dockerfiles repeat from elsewhere is the same there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from common.format.provenance import program_version
from worker.settings import EncodeSettings

ROOT = Path(__file__).parents[2]
WORKER, MERGE = ((ROOT / f"Dockerfile.{kind}").read_text() for kind in ("gpu", "merge"))


def default(argument: str, text: str) -> str:
    """Return the default of the build argument, or of the Makefile's variable."""
    found = re.search(rf"^(?:ARG )?{argument} ?\??=[ \t]*(.*)$", text, re.MULTILINE)
    assert found, argument
    return found[1]


def test_both_images_stand_on_one_base_pinned_by_its_digest() -> None:
    assert default("BASE_IMAGE", WORKER) == default("BASE_IMAGE", MERGE)
    assert re.search(r"@sha256:[0-9a-f]{64}$", default("BASE_IMAGE", WORKER))


@pytest.mark.parametrize("text", [WORKER, MERGE])
def test_an_image_carries_the_version_of_the_program(text: str) -> None:
    assert default("VERSION", text) == program_version()


def test_the_weights_baked_in_are_those_that_the_worker_uses_by_default() -> None:
    fields = EncodeSettings.model_fields
    assert default("WEIGHTS_REVISION", WORKER) == fields["model_revision"].default
    assert default("WEIGHTS", (ROOT / "Makefile").read_text()) == fields["model"].default
    assert default("WEIGHTS", WORKER) == ""


def test_all_that_pytorch_needs_is_pinned_and_in_its_layer() -> None:
    # Of torch's own dependencies, those of its CUDA build included; whatever they pin themselves needs no pin.
    needed = {"torch", "cuda-bindings", "cuda-pathfinder", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath"}
    needed |= {"networkx", "nvidia-nvjitlink", "setuptools", "sympy", "typing-extensions"}
    pattern = re.search(r"grep -iE '(.*)'", WORKER)
    assert pattern
    command = ["grep", "-iE", pattern[1], "constraints.txt"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {canonicalize_name(line.partition("==")[0]) for line in lines} == needed
