"""Runs `embedder …` in this process, without the code that turns errors into sentences and exit codes."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

from embedder.cli import app


class Output(NamedTuple):
    out: str
    err: str


def embedder(*arguments: object) -> Output:
    """Run the command and return what it prints. Raises the command's errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        app([str(each) for each in arguments], standalone_mode=False)
    return Output(out.getvalue(), err.getvalue())
