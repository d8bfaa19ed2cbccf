"""The report at the end of `embedder run`: the result and how to open it, or the failures and how to continue."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from common.errors import ExitCode, StoreUnavailable
from common.exit_policy import BUG, Action, action_for
from common.format.reasons import REASON_HELP, Reason
from common.run.cost import describe_spent
from common.run.keys import CHUNKS_PREFIX, FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY
from common.run.summary import read_summary
from embedder.local.programs import own_name
from results.result import open_result

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rich.console import Console

    from common.store.contract import Store
    from embedder.local.failure_lines import FailureLines
    from embedder.local.outcome import Ending, Outcome

EXPLAINED_CHUNKS = 3
"""Largest number of failed chunks whose reasons are shown with examples. The logs of the others have them too."""

UNTRAINED = (
    "the model is `untrained`: its weights are random numbers, so the vectors mean NOTHING. They only show that "
    "everything works. Choose a model with --model to get real vectors"
)


def report_result(
    console: Console, store: Store, *, manifest_uri: str = "", skipped: str, untrained: bool
) -> Mapping[str, int]:
    """Print what is in the result, and in words which files were no part of the manifest (`skipped`).

    Returns the number of failed images by reason. Raises ChunkInvalid and StoreUnavailable when the summary cannot be
    read.
    """
    summary = read_summary(store)
    if summary is None:
        raise StoreUnavailable(f"{store.location(SUMMARY_KEY)} is missing right after the merge; check the store")
    result = store.location(RESULT_KEY)
    console.print(f"{summary.rows_embedded:,} of {summary.rows_requested:,} images embedded", style="bold green")
    if spent := describe_spent(summary):
        console.print(f"  {spent}")
    for reason, count in sorted(summary.failures_by_reason.items(), key=lambda each: -each[1]):
        help_text = REASON_HELP[Reason(reason)] if reason in set(Reason) else "a reason of another version"
        console.print(f"  {count:,} {reason}: {help_text}", style="yellow")
    if skipped:
        console.print(f"  other files were left out: {skipped}", style="yellow")
    if summary.chunks_missing:
        console.print(f"  without chunks {summary.chunks_missing}: they are not in the store", style="yellow")
    console.print(f"\nvectors   {result}")
    if summary.rows_failed:
        console.print(f"failures  {store.location(FAILURES_KEY)}")
    console.print(f"summary   {store.location(SUMMARY_KEY)}")
    if store.stat(REPORT_KEY) is not None:
        console.print(f"report    {store.location(REPORT_KEY)}")
    if summary.rows_embedded:
        _report_use(console, store, manifest_uri=manifest_uri, untrained=untrained)
    return summary.failures_by_reason


def _report_use(console: Console, store: Store, *, manifest_uri: str, untrained: bool) -> None:
    """Print how to open the result, to search it and to look at it."""
    local = result = store.location(RESULT_KEY)
    if store.uri.startswith("s3://"):
        local = RESULT_KEY
        console.print(f"\nTo open it, download it with `aws s3 cp {shlex.quote(result)} .` and run in Python:\n")
    else:
        console.print("\nTo open it in Python:\n")
    console.print(f"  import h5py; result = h5py.File({local!r})", style="cyan")
    console.print('  print(result["urls"][0].decode(), result["embeddings"][0])', style="cyan")
    _report_commands(console, store, manifest_uri=manifest_uri, untrained=untrained)
    if untrained:
        warn_untrained(console)


def _report_commands(console: Console, store: Store, *, manifest_uri: str, untrained: bool) -> None:
    """Print the commands that search the result and show it."""
    embedder, run = shlex.quote(own_name()), shlex.quote(store.uri)
    note = "  # with these weights, answers mean nothing" if untrained else ""
    console.print("\nTo search it, and to look at it in a browser:\n")
    console.print(f'  {embedder} search {run} "two dogs on a beach"{note}', style="cyan")
    folder = _folder_of_images(store, manifest_uri)
    images = "" if folder is None else f" --images {shlex.quote(str(folder))}"
    console.print(f"  {embedder} explore {run}{images}", style="cyan")


def _folder_of_images(store: Store, manifest_uri: str) -> Path | None:
    """Return where the relative paths of the result start, None if it has none or its manifest is elsewhere."""
    manifest = Path(manifest_uri.removeprefix("file://"))
    result = open_result(store)
    if not manifest_uri or not manifest.exists() or not result.row_count:
        return None
    first = result.urls(0, 1)[0]
    if "://" in first or Path(first).is_absolute():
        return None
    return manifest if manifest.is_dir() else manifest.parent


def report_top_up(
    console: Console, failures_by_reason: Mapping[str, int], reasons: Collection[Reason], command: Sequence[str]
) -> None:
    """Print how many images failed for one of the reasons, and the command that fetches them again."""
    counts = {reason: count for reason in reasons if (count := failures_by_reason.get(reason, 0))}
    if not counts:
        return
    total = sum(counts.values())
    by_count = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    named = ", ".join(f"{reason} {count:,}" for reason, count in by_count)
    console.print(
        f"\n{total:,} {'image' if total == 1 else 'images'} failed for a reason that may pass ({named}). This command "
        f"fetches {'it' if total == 1 else 'them'} again, and nothing else:\n\n  {shlex.join(command)}\n",
        style="yellow",
    )


def report_nothing_to_fetch(console: Console, store: Store, reasons: Collection[Reason]) -> None:
    """Print that a top-up has nothing to do."""
    console.print(
        f"nothing to fetch again: no image of the run in {store.uri} failed with {', '.join(sorted(reasons))}",
        style="bold green",
    )


def report_chunks(console: Console, store: Store) -> None:
    """Print where the chunks of a run without a merge are."""
    console.print(f"the chunks are in {store.location(CHUNKS_PREFIX)}", style="bold green")


def report_failures(console: Console, outcome: Outcome, command: Sequence[str], *, chunk_count: int) -> None:
    """Print each part that failed, why and with which log, and the command that continues the run."""
    parts = [
        ("embedding" if chunk_count == 1 else f"chunk {index}", ending)
        for index, ending in sorted(outcome.failed.items())
    ]
    if outcome.merge is not None and outcome.merge.exit_code != ExitCode.OK:
        parts.append(("the merge", outcome.merge))
    explained = 0
    for name, ending in parts:
        explained += bool(ending.failures.reasons)
        console.print(_failure(name, ending, with_reasons=explained <= EXPLAINED_CHUNKS))
    if outcome.failed and outcome.has_earlier_rows:
        console.print("What failed has the rows that it had before.")
    elif outcome.failed:
        succeeded = "" if chunk_count == 1 else "Every chunk that succeeded is in the store. "
        console.print(f"{succeeded}Nothing was merged.")
    advice = _advice([ending.exit_code for _, ending in parts])
    console.print(f"{advice} This command continues the run:\n\n  {shlex.join(command)}\n")
    if chunk_count > 1 and any(ending.exit_code == ExitCode.DATA_ERROR for ending in outcome.failed.values()):
        # The chunks in the store were made from the list as it was.
        console.print("If you change the list or its files, choose another place for the run.\n")


def _advice(exit_codes: Sequence[int]) -> str:
    if not all(action_for(code) is Action.RETRY for code in exit_codes):
        return "Remove the cause first."
    if BUG in exit_codes:
        return "This is a bug in the embedder: please report it with its log."
    return "The cause may pass."


def _failure(name: str, ending: Ending, *, with_reasons: bool) -> Text:
    failures = ending.failures
    text = Text(f"{name} failed", style="bold red")
    is_explained = with_reasons and bool(failures.reasons)
    message = _how_many(failures) if is_explained else ending.message
    text.append(f" with exit code {ending.exit_code}: {message}", style="default not bold")
    if is_explained:
        _append_reasons(text, failures)
    if failures.listed_at:
        text.append(f"\n  all failed images: {failures.listed_at}", style="default not bold")
    return text.append(f"\n  its log: {ending.log_path}", style="dim not bold default")


def _how_many(failures: FailureLines) -> str:
    so_far = "" if failures.images == failures.of else " so far"
    return f"{failures.images} of {failures.of} images failed{so_far}, the limit is {failures.limit}"


def _append_reasons(text: Text, failures: FailureLines) -> None:
    """Append the reasons of the failed images with examples and advice, and the hosts of most of them."""
    for each in failures.reasons:
        text.append(f"\n  {each.images} {each.reason} ({each.share}): {each.advice}", style="yellow not bold")
        for example in each.examples:
            text.append(f"\n    {example}", style="default not bold")
    if failures.hosts:
        text.append(f"\n  hosts with the most failures: {failures.hosts}", style="yellow not bold")


def report_log(console: Console, log_path: Path) -> None:
    console.print(f"its log: {log_path}", style="dim")


def warn_untrained(console: Console) -> None:
    console.print(f"\nWARNING: {UNTRAINED}", style="bold yellow")
