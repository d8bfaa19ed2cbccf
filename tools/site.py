"""Lays out the pages of the site for zensical. `make site` runs this first and then builds the site.

The pages are the project's documents at the paths that they have in the repository, so a relative link leads to the
same file on the site and in the repository. Files that a page links to, as examples of values, lie beside them.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from tools.documents import ROOT, broken_links, documents, linked_files

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = ROOT / "build" / "site-pages"
"""The folder that zensical.toml names as docs_dir."""

ASSETS = ROOT / "docs" / "assets"


def lay_out(target: Path = SOURCE) -> None:
    """Replace `target` by a folder with every document and every file that a document links to."""
    shutil.rmtree(target, ignore_errors=True)
    paths = {path for document in documents() for _, path, _ in linked_files(document)}
    paths |= {path.relative_to(ROOT) for path in ASSETS.iterdir()}
    for path in sorted({*documents(), *paths}):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target / path)


if __name__ == "__main__":
    if problems := broken_links():
        sys.exit("\n".join(problems))
    lay_out()
