"""`embedder status` on one screen, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from common.durations import format_duration
from common.indexes import format_indexes
from k8s.release import brief_indexes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from k8s.status.view import Chunks, Group, Images, Status

STATES = {"done": "green", "running": "cyan", "failed": "red", "waiting": "dim"}
"""In the bar's order, with their colours."""

BAR_WIDTH = 60

SHOWN_GROUPS = 6
"""Reasons that are shown; --output json has them all."""


def as_json(status: Status) -> str:
    """Return the status as one line of JSON."""
    values: dict[str, Any] = asdict(status)
    values["chunks"] = {"count": status.chunks.count} | {
        state: {"count": len(found), "indexes": format_indexes(found)} for state, found in _states(status.chunks)
    }
    return json.dumps(values)


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
    rows.add_row("images", _text(_images(status.images)))
    if status.retries:
        rows.add_row("retries", f"{status.retries:,}")
    _add_groups(rows, "pending", [f"{_pods(group)}: {group.reason}" for group in status.pending], style="yellow")
    failures = [f"chunk{'' if group.count == 1 else 's'} {group.chunks}: {group.reason}" for group in status.failures]
    _add_groups(rows, "failed", failures, style="red")
    rows.add_row("merge", _text(status.merge))
    _add_groups(rows, "note", status.notes, style="dim")
    parts: list[RenderableType] = [rows]
    if status.next:
        # Outside the table, so that a command is one line to copy.
        parts.append(Text("\nnext", style="bold"))
        parts += [_text(f"  {command}", style="cyan", no_wrap=True) for command in status.next]
    return Lines(*parts)


def _states(chunks: Chunks) -> list[tuple[str, frozenset[int]]]:
    return [(state, getattr(chunks, state)) for state in STATES]


def _bar(chunks: Chunks) -> Text:
    """Return a bar in which every state that any chunk is in has at least one cell."""
    bar = Text()
    for state, found in _states(chunks):
        cells = max(1, round(BAR_WIDTH * len(found) / chunks.count)) if found else 0
        bar.append(("╌" if state == "waiting" else "━") * cells, style=STATES[state])
    share = len(chunks.done) / chunks.count if chunks.count else 0
    return bar.append(f"  {int(share * 100)} % of {chunks.count:,}")


def _images(images: Images) -> str:
    if images.settled is None or images.total is None:
        return "no worker has told yet"
    about = "about " if images.is_estimate else ""
    parts = [f"{about}{images.settled:,} of {about}{images.total:,}"]
    if images.rate_per_s is not None:
        parts.append(f"{images.rate_per_s:,.{0 if images.rate_per_s >= 100 else 1}f}/s")
    if images.eta_seconds is not None:
        parts.append(f"{format_duration(images.eta_seconds)} left")
    if images.failed:
        parts.append(f"{images.failed:,} failed")
    if images.waiting_on:
        parts.append(f"waiting on {images.waiting_on}")
    return " · ".join(parts)


def _pods(group: Group) -> str:
    return f"{group.count:,} pod{'' if group.count == 1 else 's'}"


def _add_groups(rows: Table, title: str, sentences: list[str], *, style: str) -> None:
    for position, sentence in enumerate(sentences[:SHOWN_GROUPS]):
        rows.add_row(title if position == 0 else "", _text(sentence, style=style))
    if len(sentences) > SHOWN_GROUPS:
        rows.add_row("", _text(f"and {len(sentences) - SHOWN_GROUPS} more reasons; see --output json", style=style))


def _text(text: str, *, style: str = "", no_wrap: bool = False) -> Text:
    """Return text from elsewhere as it is: no markup, no control characters."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return Text(plain, style=style, no_wrap=no_wrap, overflow="ignore" if no_wrap else "fold")
