"""How a merge ends when it succeeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from common.run.summary import Summary


class Merged(NamedTuple):
    """This merge has finished the run."""

    summary: Summary


class AlreadyFinished(NamedTuple):
    """The run was finished before, so nothing was merged."""

    summary: Summary
    """The summary that the earlier merge wrote."""
