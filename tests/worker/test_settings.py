"""The values that the worker derives from its settings."""

from __future__ import annotations

import os

import pytest

from common.errors import SettingsError
from common.format.provenance import program_version
from common.format.reasons import MAY_PASS, Reason
from tests.worker.fetch.fetching import worker_settings


def test_one_spare_decoder_is_started() -> None:
    assert worker_settings(decode_threads=3).decode.decoder_count == 4
    assert worker_settings(decode_threads=0).decode.decoder_count == len(os.sched_getaffinity(0)) + 1


def test_the_spare_decoder_adds_no_bytes_in_memory() -> None:
    assert worker_settings(decode_threads=3).decode.inflight_bytes == 3 * 32 << 20
    assert worker_settings(decode_threads=3, max_inflight_bytes=1).decode.inflight_bytes == 1


def test_a_user_agent_that_is_no_header_is_a_wrong_setting() -> None:
    assert worker_settings(user_agent="me/{version} (x)").http.user_agent_header == f"me/{program_version()} (x)"
    for wrong in ("two\r\nlines: yes", "Zoë", "tab\t"):
        with pytest.raises(SettingsError, match=r"EMBEDDER_USER_AGENT is .*printable ASCII"):
            worker_settings(user_agent=wrong)


def test_a_top_up_is_for_the_reasons_that_may_pass_unless_reasons_are_named() -> None:
    assert worker_settings().chunk.reasons_to_top_up == MAY_PASS
    named = worker_settings(top_up_reasons="not_found, timeout").chunk.reasons_to_top_up
    assert named == {Reason.NOT_FOUND, Reason.TIMEOUT}
    with pytest.raises(SettingsError, match=r"'gone' is no reason of the ledger; choose from access_denied, "):
        worker_settings(top_up_reasons="not_found,gone")
