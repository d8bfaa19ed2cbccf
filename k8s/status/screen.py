"""`embedder status` on one screen, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from common.indexes import brief_indexes, format_indexes
from k8s.release.wording import name_chunks
from k8s.status.wording import (
    describe_failed_images,
    describe_failure,
    describe_images,
    describe_index,
    describe_may_pass,
    describe_merge,
    describe_node,
    describe_note,
    describe_pending,
    describe_site,
    describe_spending,
    describe_top_up,
    failures_file,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from k8s.status.chunks import Chunks
    from k8s.status.troubles import FailedChunks, PendingPods
    from k8s.status.view import Status

STATES = {"done": "green", "running": "cyan", "failed": "red", "waiting": "dim", "unknown": "yellow"}
"""The states of chunks in the order of the bar, with their colours."""

BAR_WIDTH = 60
"""Width of the bar in columns."""

SHOWN_CHUNKS = 6
"""Largest number of chunks of a group whose failed images are on the screen. `--output json` has them all."""

SHOWN_GROUPS = 6
"""Largest number of groups with different causes on the screen. `--output json` has them all."""


def as_json(status: Status) -> str:
    """Return the status as one line of JSON."""
    pending = [
        {"reason": describe_pending(group.why), "count": group.count, "chunks": "", "pods": group.pods}
        for group in status.pending
    ]
    failures = [
        {
            "reason": describe_failure(group.why),
            "count": len(group.chunks),
            "chunks": brief_indexes(group.chunks),
            "pods": group.pods,
            "images": [
                {
                    "chunk": images.chunk,
                    "reasons": images.reasons,
                    "file": failures_file(images, run_uri=status.run_uri),
                }
                for images in group.images
            ],
        }
        for group in status.failures
    ]
    top_ups = [
        {
            "job": each.job.name,
            "chunks": len(each.job.chunks),
            "done": format_indexes(each.job.completed),
            "running": format_indexes(each.running),
            "failed": format_indexes(each.job.left),
            "failures": [
                {
                    "reason": describe_failure(group.why),
                    "count": len(group.chunks),
                    "chunks": brief_indexes(group.chunks),
                }
                for group in each.failures
            ],
            "merge": describe_merge(each.merge),
            "index": describe_index(each.index) if each.index is not None else None,
            "has_ended": each.has_ended,
        }
        for each in status.top_ups
    ]
    return json.dumps(
        {
            "release": status.release,
            "namespace": status.namespace,
            "run_uri": status.run_uri,
            "chunks": {"count": status.chunks.count}
            | {
                state: {"count": len(found), "indexes": format_indexes(found)}
                for state, found in _states(status.chunks)
            },
            "images": asdict(status.images),
            "spending": asdict(status.spending)
            | {"cost": status.spending.cost, "cost_per_million": status.spending.cost_per_million},
            "retries": status.retries,
            "pending": pending,
            "failures": failures,
            "nodes": [{"node": node.node, "count": node.count, "reason": describe_node(node)} for node in status.nodes],
            "slow_sites": [site._asdict() for site in status.slow_sites],
            "top_ups": top_ups,
            "may_pass": status.may_pass,
            "merge": describe_merge(status.merge),
            "index": describe_index(status.index) if status.index is not None else None,
            "is_finished": status.is_finished,
            "has_ended": status.has_ended,
            "next": status.next,
            "notes": [describe_note(note) for note in status.notes],
        }
    )


def as_screen(status: Status) -> RenderableType:
    """Return the status as lines."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("release", _text(f"{status.release} in namespace {status.namespace}, {status.run_uri}"))
    rows.add_row("chunks", _bar(status.chunks))
    for state, found in _states(status.chunks):
        if found:
            rows.add_row("", Text(f"{len(found):>7,} {state:<8}", style=STATES[state]).append(brief_indexes(found)))
    rows.add_row("images", _text(describe_images(status.images)))
    if spent := describe_spending(status.spending):
        rows.add_row("spent", _text(spent))
    if status.retries:
        rows.add_row("retries", f"{status.retries:,}")
    _add_sentences(rows, "pending", [_pending(group) for group in status.pending], style="yellow")
    _add_sentences(rows, "failed", [_failed(group, status.run_uri) for group in status.failures], style="red")
    _add_sentences(rows, "nodes", [describe_node(node) for node in status.nodes], style="red")
    _add_sentences(rows, "slow sites", [describe_site(site) for site in status.slow_sites], style="yellow")
    rows.add_row("merge", _text(describe_merge(status.merge)))
    if status.index is not None:
        rows.add_row("index", _text(describe_index(status.index)))
    for top_up in status.top_ups:
        rows.add_row("top-up", _text(describe_top_up(top_up)))
        _add_sentences(rows, "", [_failed(group, status.run_uri) for group in top_up.failures], style="red")
    if status.may_pass:
        rows.add_row("left", _text(describe_may_pass(status.may_pass)))
    _add_sentences(rows, "note", [describe_note(note) for note in status.notes], style="dim")
    parts: list[RenderableType] = [rows]
    if status.next:
        # Outside the table a command stays on one line, so that it can be copied.
        parts.append(Text("\nnext", style="bold"))
        parts += [_text(f"  {command}", style="cyan", no_wrap=True) for command in status.next]
    return Lines(*parts)


def _states(chunks: Chunks) -> list[tuple[str, frozenset[int]]]:
    states = [(state, getattr(chunks, state)) for state in STATES]
    return [(state, found) for state, found in states if found or state != "unknown"]


def _bar(chunks: Chunks) -> Text:
    """Return the bar. Each state that at least one chunk has takes at least one column."""
    bar = Text()
    for state, found in _states(chunks):
        cells = max(1, round(BAR_WIDTH * len(found) / chunks.count)) if found else 0
        bar.append(("╌" if state in {"waiting", "unknown"} else "━") * cells, style=STATES[state])
    share = len(chunks.done) / chunks.count if chunks.count else 0
    return bar.append(f"  {int(share * 100)} % of {chunks.count:,}")


def _pending(group: PendingPods) -> str:
    return f"{group.count:,} pod{'' if group.count == 1 else 's'}: {describe_pending(group.why)}"


def _failed(group: FailedChunks, run_uri: str) -> Text:
    """Return why chunks failed, and on lines of their own the failed images of each chunk where they are several."""
    lines = [f"{name_chunks(group.chunks)}: {describe_failure(group.why)}"]
    if len(group.chunks) > 1:
        lines += [describe_failed_images(each, run_uri=run_uri) for each in group.images[:SHOWN_CHUNKS]]
        if len(group.images) > SHOWN_CHUNKS:
            lines.append(f"and {len(group.images) - SHOWN_CHUNKS:,} more chunks; see --output json")
    return Text("\n  ".join(map(_plain, lines)), overflow="fold")


def _add_sentences(rows: Table, title: str, sentences: Sequence[str | Text], *, style: str) -> None:
    for position, sentence in enumerate(sentences[:SHOWN_GROUPS]):
        shown = _text(sentence) if isinstance(sentence, str) else sentence
        shown.stylize(style)
        rows.add_row(title if position == 0 else "", shown)
    if len(sentences) > SHOWN_GROUPS:
        rows.add_row("", _text(f"and {len(sentences) - SHOWN_GROUPS} more; see --output json", style=style))


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _text(text: str, *, style: str = "", no_wrap: bool = False) -> Text:
    """Return text from elsewhere unchanged, without markup and control characters."""
    return Text(_plain(text), style=style, no_wrap=no_wrap, overflow="ignore" if no_wrap else "fold")
