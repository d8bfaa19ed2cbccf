"""What helps against failed images: a setting that exists, for every reason."""

from __future__ import annotations

import re

import pytest

from common.format.reasons import Reason
from common.settings import settings_of
from worker.failure_advice import ADVICE, LOCAL_ADVICE, advice_for
from worker.settings import WorkerSettings

VARIABLES = {f"EMBEDDER_{name.upper()}" for name in settings_of(WorkerSettings)}


def test_every_reason_has_its_advice() -> None:
    assert ADVICE.keys() == set(Reason)


@pytest.mark.parametrize("advice", [*ADVICE.values(), *LOCAL_ADVICE.values()])
def test_advice_names_settings_of_the_worker_and_no_others(advice: str) -> None:
    assert set(re.findall(r"EMBEDDER_\w+", advice)) <= VARIABLES | {"EMBEDDER_CA_BUNDLE"}


@pytest.mark.parametrize("reason", [Reason.RATE_LIMITED, Reason.SERVER_ERROR, Reason.DEFERRED])
def test_no_advice_makes_a_slow_site_slower(reason: Reason) -> None:
    advice = advice_for(reason, ["https://example.org/a.jpg"])
    assert "top-up" in advice
    assert "CONCURRENCY" not in advice
    assert "raise" not in advice


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        (Reason.FORBIDDEN_HOST, "EMBEDDER_ALLOW_PRIVATE_HOSTS"),
        (Reason.URL_TOO_LONG, "EMBEDDER_MAX_URL_BYTES"),
        (Reason.TOO_LARGE, "EMBEDDER_MAX_IMAGE_BYTES"),
        (Reason.TOO_MANY_PIXELS, "EMBEDDER_MAX_IMAGE_PIXELS"),
        (Reason.RATE_LIMITED, "EMBEDDER_MIRROR_URL"),
        (Reason.TIMEOUT, "EMBEDDER_FETCH_TIMEOUT_SECONDS"),
        (Reason.MALFORMED_ROW, "EMBEDDER_MANIFEST_FORMAT"),
        (Reason.INVALID_URL, "EMBEDDER_URL_COLUMN"),
        (Reason.NO_SOURCE, "EMBEDDER_SOURCES"),
        (Reason.NOT_FOUND, "EMBEDDER_MAX_FAILURE_RATIO"),
        (Reason.CONNECTION_FAILED, "EMBEDDER_VERIFY_IMAGE_CERTIFICATES"),
        (Reason.CONNECTION_FAILED, "EMBEDDER_CA_BUNDLE"),
        (Reason.DECODE_TIMEOUT, "EMBEDDER_DECODE_TIMEOUT_SECONDS"),
        (Reason.DECODER_DIED, "memory limit"),
    ],
)
def test_the_advice_fits_the_reason(reason: Reason, setting: str) -> None:
    assert setting in advice_for(reason, ["https://example.org/a.jpg"])


def test_files_of_this_machine_that_are_not_there_have_an_advice_of_their_own() -> None:
    paths = ["photos/a.jpg", "/photos/b.jpg", "file:///photos/c.jpg"]
    assert "relative to the folder of the list" in advice_for(Reason.NOT_FOUND, paths)
    assert "relative" not in advice_for(Reason.NOT_FOUND, [*paths, *["HTTPS://example.org/a.jpg"] * 4])
    assert "EMBEDDER_MAX_URL_BYTES" in advice_for(Reason.URL_TOO_LONG, paths)
