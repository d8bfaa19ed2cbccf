"""Chunks and the ends of pods in words, for messages and screens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.exit_policy import explain_exit_code
from common.indexes import brief_indexes

if TYPE_CHECKING:
    from collections.abc import Collection

    from k8s.release.pod import PodEnd


def name_chunks(chunks: Collection[int]) -> str:
    """Return `chunk 7`, or `chunks 3,7-9`."""
    return f"chunk{'' if len(chunks) == 1 else 's'} {brief_indexes(chunks)}"


def describe_end(end: PodEnd) -> str:
    """Return in a few words how a pod has ended."""
    if end.is_out_of_memory:
        return "ran out of memory (OOMKilled, exit code 137)"
    if end.rejected_by:
        return f"rejected by node {end.rejected_by} ({end.ended_by}: {end.message or 'no message'})"
    if not end.message and not end.ended_by:
        return explain_exit_code(end.exit_code) if end.exit_code else end.phase
    code = f"exit code {end.exit_code}" if end.exit_code else ""
    what = ", ".join(filter(None, (end.ended_by, code)))
    return ": ".join(filter(None, (what, end.message)))
