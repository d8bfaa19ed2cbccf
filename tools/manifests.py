"""k8s/manifests: the chart's default render, for people who use kubectl. `make manifests` writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.charts.helm import ROOT, template

if TYPE_CHECKING:
    from pathlib import Path

MANIFESTS = ROOT / "k8s" / "manifests"
NAMESPACE = "embedder"
SOURCE = "# Source: embedder/templates/"
HEAD = "# Rendered from charts/ by `make manifests`; changes belong there. README.md says how to use it.\n"


def rendered() -> dict[str, str]:
    """Return the text of each file, by its name: one for every object of the chart."""
    files: dict[str, str] = {}
    for document in template("--skip-tests", "--namespace", NAMESPACE).split("---\n"):
        if document.strip():
            source, _, text = document.partition("\n")
            name = source.removeprefix(SOURCE)
            if name == source or name in files:
                raise ValueError(f"{source!r} is not the only object of a template")
            files[name] = HEAD + text
    return files


def write(folder: Path = MANIFESTS) -> None:
    """Replace the rendered files in `folder`."""
    for old in folder.glob("*.yaml"):
        old.unlink()
    for name, text in rendered().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write()
