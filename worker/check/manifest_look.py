"""The manifest's format, columns, first rows and number of rows, and a sample of its rows."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from common.errors import TooManyFailures
from common.findings import Finding, FirstRow, ManifestFacts, Subject, Verdict, fault
from common.retry import RetryPolicy
from worker.check.images import SAMPLE, UNUSABLE_ADVICE
from worker.manifest.excerpts import excerpt
from worker.manifest.manifest import open_manifest

if TYPE_CHECKING:
    from worker.manifest.manifest import Manifest, ManifestChunk
    from worker.settings import HttpSettings, ManifestSettings

FIRST_ROWS = 3
"""Number of rows from the start of the manifest that are shown."""

HTTP_RETRY = RetryPolicy(first_pause_seconds=0.5, longest_pause_seconds=1, attempts=2)
"""The retries of one range of the manifest: a person waits."""


class OpenManifest(NamedTuple):
    manifest: Manifest
    sample: ManifestChunk
    facts: ManifestFacts


def read_manifest(settings: ManifestSettings, http: HttpSettings, *, mirror_url: str, run_uri: str) -> OpenManifest:
    """Return the manifest without what the run `run_uri` has written, and a sample. Raises as `open_manifest`."""
    manifest = open_manifest(settings, http=http, mirror_url=mirror_url, http_retry=HTTP_RETRY, run_uri=run_uri)
    count = manifest.count_rows()
    first = manifest.first_rows(FIRST_ROWS, of=count.rows)
    sample = manifest.sample(SAMPLE)
    shown = [(row.position, FirstRow(url=excerpt(row.url), id=excerpt(row.id))) for row in first.rows]
    shown += [
        (failure.row, FirstRow(url=excerpt(failure.url), id=excerpt(failure.id), problem=excerpt(failure.detail)))
        for failure in first.failures
    ]
    columns = asdict(manifest.columns) if manifest.columns is not None else {}
    facts = ManifestFacts(
        format=manifest.format,
        bytes=manifest.size,
        rows=count.rows,
        is_exact=count.is_exact,
        columns={what: excerpt(name) for what, name in columns.items() if name is not None},
        sources=manifest.sources,
        files=manifest.file_count,
        first_rows=tuple(row for _, row in sorted(shown, key=lambda pair: pair[0])),
        mean_url_bytes=statistics.fmean(len(row.url.encode()) for row in sample.rows) if sample.rows else 0,
        shards=manifest.shard_count,
    )
    return OpenManifest(manifest, sample, facts)


def manifest_finding(opened: OpenManifest, *, max_failure_ratio: float) -> Finding:
    """Return what the manifest holds. It is a fault where no sampled row can be used, and a chunk may not lose all."""
    facts, unusable = opened.facts, opened.sample.failures
    files = f"{facts.files:,} files, " if facts.files > 1 else ""
    message = (
        f"{opened.manifest.name}: {facts.format}, {files}{facts.bytes:,} bytes, "
        f"{'' if facts.is_exact else 'about '}{facts.rows:,} rows; sources {', '.join(facts.sources)}"
    )
    if opened.manifest.skipped:
        message += f"; left out: {opened.manifest.skipped}"
    all_bad = bool(facts.first_rows) and all(row.problem for row in facts.first_rows)
    if not unusable and not all_bad:
        return Finding(subject=Subject.MANIFEST, verdict=Verdict.OK, message=message, facts=facts)
    sampled = len(unusable) + len(opened.sample.rows)
    if unusable:
        example = excerpt(unusable[0].detail)
        message += f"; {len(unusable)} of {sampled} sampled rows cannot be used, for example {example}"
    else:
        message += "; none of the first rows can be used"
    if len(unusable) == sampled:
        message += f"; {UNUSABLE_ADVICE}"
        if max_failure_ratio < 1:
            return fault(Subject.MANIFEST, TooManyFailures(message), facts)
    return Finding(subject=Subject.MANIFEST, verdict=Verdict.WARNING, message=message, facts=facts)
