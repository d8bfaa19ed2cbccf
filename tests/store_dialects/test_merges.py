"""Merges on doubles of stores that make an object only from certain parts."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from common.errors import StoreUnavailable
from common.run.keys import FAILURES_KEY, REPORT_KEY, RESULT_KEY, SUMMARY_KEY
from merger.chunks import read_inputs
from merger.layout import compute_layout, result_attributes
from merger.merge import merge
from merger.progress import Progress
from merger.publisher import Publisher
from merger.sources import Sources
from merger.totals import count_totals
from tests.merger.runs import assert_merged, put_run, read_summary, settings_for
from tests.s3_proxy import Answer, Request, has_condition
from tests.store_dialects.dialects import B2, LEAST, R2, Dialect, error

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from common.store.s3.store import S3Store
    from tests.store_dialects.conftest import Speaking

    Speak = Callable[..., AbstractContextManager[Speaking]]

SIZES = [6000, 10, 9000]
"""Rows of the chunks: the large ones hold whole parts of 8 MiB, wherever these begin."""


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "way"), [(R2, "server-side"), (LEAST, "streaming")], ids=["r2", "least"])
def test_a_store_that_demands_equal_parts_gets_them(dialect: Dialect, way: str, speak: Speak, direct: S3Store) -> None:
    chunks = put_run(direct, SIZES)
    with speak(dialect) as (store, double, _):
        merge(store, settings_for(store, len(SIZES)))
        # Once with the condition of the write, and once without.
        assert double.refused["unequal parts"] == (2 if dialect is R2 else 0)
    assert_merged(direct, chunks)
    summary = read_summary(direct)
    assert summary["assembly"] == way
    assert (summary["bytes_copied_by_store"] > 0) == (way == "server-side")
    assert sorted(found.key for found in direct.list("")) == [RESULT_KEY, FAILURES_KEY, REPORT_KEY, SUMMARY_KEY]


def test_a_store_that_refuses_every_assembly_ends_the_merge_with_its_words_and_leaves_the_chunks(
    speak: Speak, direct: S3Store
) -> None:
    put_run(direct, [20, 10])
    refusal = error(400, "MalformedXML", "the list of parts cannot be read")
    dialect = Dialect(
        name="no end", every_request=lambda each: refusal if each.operation == "CompleteMultipartUpload" else None
    )
    before = sorted(direct.list(""))
    with (
        speak(dialect) as (store, _, _proxy),
        pytest.raises(StoreUnavailable, match="the list of parts cannot be read"),
    ):
        merge(store, settings_for(store, 2))
    assert sorted(direct.list("")) == before


@pytest.mark.slow
def test_two_merges_in_a_row_replace_a_partial_result_without_conditional_writes(speak: Speak, direct: S3Store) -> None:
    chunks = put_run(direct, [30, 20])
    missing = direct.read("chunks/Images_Embedded_1.h5")
    direct.delete(["chunks/Images_Embedded_1.h5"])
    with speak(B2) as (store, _, _proxy):
        merge(store, settings_for(store, 2, on_missing_chunks="partial"))
        assert read_summary(store)["chunks_missing"] == "1"
        direct.put_bytes("chunks/Images_Embedded_1.h5", missing)
        merge(store, settings_for(store, 2))
    assert_merged(direct, chunks)


def test_a_store_whose_refusal_of_a_condition_ends_the_upload_gets_a_second_upload(
    speak: Speak, direct: S3Store
) -> None:
    chunks = put_run(direct, [30, 20])
    ended: set[str] = set()

    def end_upload(request: Request) -> Answer | None:
        if request.operation != "CompleteMultipartUpload":
            return None
        upload = parse_qs(urlsplit(request.path).query)["uploadId"][0]
        if has_condition(request):
            ended.add(upload)
            return error(501, "NotImplemented")
        return error(404, "NoSuchUpload") if upload in ended else None

    with speak(Dialect(name="ends uploads", every_request=end_upload)) as (store, _, _proxy):
        merge(store, settings_for(store, 2))
    assert_merged(direct, chunks)
    assert len(ended) == 1


@pytest.mark.slow
@pytest.mark.parametrize("copies", [True, False], ids=["copies", "uploads"])
def test_a_store_that_takes_fewer_parts_gets_larger_ones(copies: bool, speak: Speak, direct: S3Store) -> None:
    chunks = put_run(direct, SIZES)
    refused = error(400, "InvalidArgument", "Part number must be an integer between 1 and 2, inclusive")

    def few(request: Request) -> Answer | None:
        if request.is_copy and not copies:
            return error(501, "NotImplemented")
        number = parse_qs(urlsplit(request.path).query).get("partNumber", ["1"])[0]
        return refused if int(number) > 2 else None

    with speak(Dialect(name="few parts", every_request=few)) as (store, _, _proxy):
        settings = settings_for(store, len(SIZES))
        with Progress(interval_seconds=60) as progress:
            inputs = read_inputs(store, chunk_count=3, allow_missing=False, concurrency=4, traffic=progress.traffic)
            attributes = result_attributes(inputs.headers, count_totals(inputs.headers, inputs.missing))
            layout = compute_layout(inputs.headers, attributes)
            sources = Sources(store, inputs.chunks, layout, progress.traffic)
            Publisher(sources, inputs.provenance, settings, progress, few_parts=2).publish(replacing=None)
    assert_merged(direct, chunks)
