"""The page of a report."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING

from results.report.sample_picture import DATA_URI, PICTURE_CLASS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.run.summary import Summary
    from results.report.failure_digest import FailureDigest
    from results.report.sample_picture import SamplePicture


def render_report(summary: Summary, failures: FailureDigest, pictures: Sequence[SamplePicture]) -> str:
    """Return the report of a run as HTML, at most 5 MB.

    A report shows some of the pictures, from chunks that are spread evenly. It never holds the password or the
    signature of a URL.
    """
    images = "".join(
        f'<img class="{PICTURE_CLASS}" data-chunk="{each.chunk}" data-url="{escape(each.url)}" alt="" '
        f'src="{DATA_URI}{b64encode(each.jpeg).decode()}">'
        for each in pictures
    )
    return (
        f"<!DOCTYPE html><title>{escape(summary.provenance.model)}</title><p>{summary.rows_embedded:,} of "
        f"{summary.rows_requested:,} images embedded, {failures.count:,} failed</p>{images}"
    )
