"""What a check has found, as a table for people and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from common.durations import format_duration
from common.findings import ImagesFacts, ManifestFacts, StoreFacts, Subject, Verdict, exit_code_of, worst

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from common.findings import Finding
    from embedder.check.plan import Plan

STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAULT: "bold red", Verdict.SKIPPED: "dim"}


def as_json(findings: Sequence[Finding], plan: Plan | None, notes: Sequence[str]) -> str:
    """Return one JSON object: the exit code, the findings in their order, the plan and the notes."""
    found: dict[str, Any] = {
        "exit_code": exit_code_of(findings),
        "findings": [finding.model_dump(mode="json") for finding in in_order(findings)],
        "plan": None if plan is None else plan.as_json(),
        "notes": list(notes),
    }
    return json.dumps(found, ensure_ascii=False)


def as_screen(findings: Sequence[Finding], plan: Plan | None, notes: Sequence[str]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("what", "verdict", "found"):
        table.add_column(heading, no_wrap=heading != "found", overflow="fold")
    for finding in in_order(findings):
        verdict = Text(str(finding.verdict), style=STYLES[finding.verdict])
        lines = "\n".join([_said(finding), *_details(finding)])
        table.add_row(Text(str(finding.subject)), verdict, Text(lines))
    parts: list[RenderableType] = [table]
    parts += [Text(f"note: {note}", style="dim") for note in notes]
    if plan is not None:
        parts.append(Text("\n".join(["", *_plan_lines(plan)])))
    parts.append(_verdict(findings))
    return Group(*parts)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings in the order in which a worker meets their subjects."""
    subjects = list(Subject)
    return sorted(findings, key=lambda finding: subjects.index(finding.subject))


def _said(finding: Finding) -> str:
    return f"{finding.message} (exit code {finding.exit_code})" if finding.exit_code else finding.message


def _details(finding: Finding) -> Iterator[str]:
    match finding.facts:
        case StoreFacts(abilities=abilities) if abilities.get("store") == "folder":
            pass  # any folder can do the same
        case StoreFacts(abilities=abilities):
            yield "; ".join(f"{name}: {value}" for name, value in abilities.items() if name != "store")
        case ManifestFacts() as manifest:
            if manifest.columns:
                yield "columns: " + ", ".join(f"{what} {name}" for what, name in manifest.columns.items())
            for row in manifest.first_rows:
                shown = " ".join(filter(None, (row.id, row.url)))
                yield f"row: {row.problem or shown}"
        case ImagesFacts() as images:
            for source in images.sources:
                reasons = "".join(f", {reason} {count}" for reason, count in source.reasons.items())
                yield f"{source.source}: {source.good} of {source.asked}{reasons}"
                if source.example:
                    yield f"  for example {source.example}"
            if images.good:
                yield (
                    f"{images.mean_bytes / 1000:,.0f} kB an image, fetched in {images.median_fetch_ms:,.0f} ms "
                    f"(median), decoded in {images.mean_decode_ms:,.1f} ms"
                )


def _plan_lines(plan: Plan) -> Iterator[str]:
    about = "" if plan.is_exact else "about "
    yield (
        f"{about.capitalize()}{_count(plan.rows, 'row')} in {_count(plan.chunks, 'chunk')}, the result has "
        f"{about}{_size(plan.result_bytes)}."
    )
    if plan.chunks_by != "check" and plan.is_suggestion_much_different:
        suggested = f"the check would suggest {_count(plan.suggested_chunks, 'chunk')}."
        if plan.chunks_by == "store":
            yield f"That is the number of chunks that the run in the store has; for a new run, {suggested}"
        else:
            yield f"That is the number of chunks that you ask for; for these rows, {suggested}"
    if plan.hours is None:
        yield "All chunks of the run are in the store, so nothing is left to compute."
    workers = _count(plan.parallelism or 1, "worker")
    if plan.on_gpu:
        device, otherwise = "a GPU", "an estimate, as no GPU is at hand"
    else:
        device, otherwise = "no GPU", "an estimate"
    yield (
        f"A worker with {device} and {plan.cores} cores makes {plan.images_per_second:,.0f} images/s "
        f"({'measured on this device' if plan.is_measured else otherwise})"
        + (f"; with {workers} the run takes {_hours(plan.hours)}." if plan.hours is not None else ".")
    )
    if plan.is_held_back and plan.hours is not None:
        yield (
            "A site refuses requests beyond a pace of its own, so it takes longer: the log of a worker and `embedder "
            "status` show each such site's pace and when it is done. More workers do not make the site faster."
        )
    yield "For the chart:"
    yield "  " + " \\\n  ".join(f"--set {value}" for value in plan.assignments)
    if plan.here is not None:
        hours, rate = plan.here.hours, f"{plan.here.images_per_second:,.0f} images/s"
        takes = f", which takes {_hours(hours)} at {rate}." if hours is not None else "."
        yield f"On this machine: embedder run … --chunks {plan.here.chunks}{takes}"


def _hours(hours: float) -> str:
    """Return a duration with the start-up of its chunks, which is an estimate."""
    return f"about {format_duration(hours * 3600)}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _size(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def _verdict(findings: Sequence[Finding]) -> Text:
    found = worst(findings)
    if found is not None:
        causes = dict.fromkeys(
            str(each.subject)
            for each in in_order(findings)
            if each.verdict is Verdict.FAULT and each.exit_code == found.exit_code
        )
        *others, last = causes
        named = f"{', '.join(others)} and {last}" if others else last
        return Text(f"\nA worker would end with exit code {found.exit_code}, because of {named}.", style="bold red")
    warnings = sum(finding.verdict is Verdict.WARNING for finding in findings)
    word = f", with {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    return Text(f"\nNothing that was looked at would stop a worker{word}.", style="yellow" if warnings else "green")
