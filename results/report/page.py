"""The page of a report."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.format.reasons import REASON_HELP, Reason
from common.indexes import parse_indexes
from common.run.summary import MOST_CHUNK_TIMES
from results.report import texts
from results.report.attempts import KINDS, main_kind, seconds_by_kind, timed_attempts
from results.report.contact_sheet import choose_pictures
from results.report.sample_picture import DATA_URI, PICTURE_CLASS
from results.report.throughput import chart_throughput
from results.report.time_axis import TimeAxis
from results.report.timeline import lay_out_timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.run.summary import ChunkTimes, Summary
    from results.report.attempts import TimedAttempt
    from results.report.failure_digest import FailureDigest, FailureGroup
    from results.report.sample_picture import SamplePicture

CHART_WIDTH = 960.0
"""Width of a chart in its own units. A page scales it to its own width."""

CHART_LEFT = 56.0
"""Where the time axis begins: the numbers of the other axis stand left of it."""

THROUGHPUT_HEIGHT = 180.0

SLOWEST_CHUNKS = 10
FAILED_CHUNKS = 10
SITES = 20
"""Largest number of lines of a table."""


def render_report(summary: Summary, failures: FailureDigest, pictures: Sequence[SamplePicture]) -> str:
    """Return the report of a run as HTML, at most 5 MB.

    It shows some of the pictures, from chunks that are spread evenly. It never holds the password or the signature of a
    URL.
    """
    attempts = timed_attempts(summary.chunk_times)
    html: str = _template().render(
        summary=summary,
        provenance=asdict(summary.provenance),
        kinds=KINDS,
        charts=_charts(attempts) if attempts else None,
        time_notes=_time_notes(summary),
        started=min((each.start for each in attempts), default=None),
        ended=max((each.end for each in attempts), default=None),
        repeated=sum(len(times.attempts) > 1 for times in summary.chunk_times),
        kind_seconds=_kind_seconds(summary.chunk_times),
        slowest=_slowest(summary.chunk_times, attempts),
        failures=failures,
        failed_chunks=_failed_chunks(summary, failures)[:FAILED_CHUNKS],
        sites=failures.by_site[:SITES],
        reason_help={str(reason): text for reason, text in REASON_HELP.items()},
        known_reasons={str(reason) for reason in Reason},
        pictures=choose_pictures(pictures),
        picture_class=PICTURE_CLASS,
        width=CHART_WIDTH,
    )
    return html


def _charts(attempts: Sequence[TimedAttempt]) -> dict[str, Any]:
    axis = TimeAxis(((each.start, each.end) for each in attempts), left=CHART_LEFT, right=CHART_WIDTH - 8)
    return {
        "axis": axis,
        "timeline": lay_out_timeline(attempts, axis),
        "throughput": chart_throughput(attempts, axis, height=THROUGHPUT_HEIGHT),
    }


def _time_notes(summary: Summary) -> list[str]:
    """Return sentences on the chunks whose times are not known."""
    merged, known = len(parse_indexes(summary.chunks_merged)), len(summary.chunk_times)
    of_earlier_version = "An earlier version of this program computed them."
    if not known:
        return [f"The times of the chunks are not known. {of_earlier_version}"]
    if known < merged and known >= MOST_CHUNK_TIMES:
        return [f"The summary of the run keeps the times of {known:,} of {merged:,} chunks; the charts show these."]
    if known < merged:
        return [f"The times of {merged - known:,} of {merged:,} chunks are not known. {of_earlier_version}"]
    return []


def _kind_seconds(chunks: Sequence[ChunkTimes]) -> list[tuple[str, float, float]]:
    """Return what the encoders spent their time with: kind, seconds of all chunks, and share of them (0 to 1)."""
    seconds = dict.fromkeys(KINDS, 0.0)
    for times in chunks:
        for kind, more in seconds_by_kind(times).items():
            seconds[kind] += more
    total = sum(seconds.values())
    return [(kind, each, each / total) for kind, each in seconds.items() if each > 0]


def _slowest(chunks: Sequence[ChunkTimes], attempts: Sequence[TimedAttempt]) -> list[dict[str, Any]]:
    """Return the chunks whose last attempts took the longest."""
    of_chunk = {times.index: times for times in chunks}
    last = sorted((each for each in attempts if not each.is_earlier), key=lambda each: (-each.seconds, each.chunk))
    return [
        {
            "attempt": each,
            "attempts": of_chunk[each.chunk].attempt or len(of_chunk[each.chunk].attempts),
            "device": of_chunk[each.chunk].device,
            "kind": main_kind(of_chunk[each.chunk]),
        }
        for each in last[:SLOWEST_CHUNKS]
    ]


def _failed_chunks(summary: Summary, failures: FailureDigest) -> list[tuple[FailureGroup, int]]:
    """Return the chunks with the most failed images, with the number of the chunk's rows, 0 where it is not known."""
    rows = {str(times.index): times.rows for times in summary.chunk_times}
    return [(group, rows.get(group.name, 0)) for group in failures.by_chunk]


@cache
def _template() -> Any:  # noqa: ANN401 - a jinja2.Template, whose render takes anything
    environment = Environment(
        loader=PackageLoader("results.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": texts.number,
        "rate": texts.rate,
        "size": texts.size,
        "money": texts.money,
        "moment": texts.moment,
        "written_moment": texts.written_moment,
        "listed": texts.listed_text,
        "link": texts.link,
        "duration": texts.duration,
        "base64": lambda data: f"{DATA_URI}{b64encode(data).decode()}",
    }
    environment.globals["share"] = texts.share
    return environment.get_template("report.html.jinja")


def _finalize(value: object) -> object:
    """Make every character of what the template writes visible. Jinja escapes the text afterwards."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return texts.visible(value) if type(value) is str else value
