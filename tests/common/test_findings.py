"""Findings travel as lines, hold no secret, and the worst of them decides the exit code."""

from __future__ import annotations

from common.errors import ManifestError, StoreUnavailable, TooManyFailures
from common.findings import Finding, FirstRow, ManifestFacts, Subject, Verdict, exit_code_of, fault, read_finding, worst

OK = Finding(subject=Subject.SETTINGS, verdict=Verdict.OK, message="every setting can be read")


def test_a_finding_is_read_back_from_its_line() -> None:
    facts = ManifestFacts(
        format="csv",
        bytes=7,
        rows=3,
        is_exact=True,
        columns={"url": "link"},
        sources=("url",),
        first_rows=(FirstRow(url="a"),),
    )
    found = Finding(subject=Subject.MANIFEST, verdict=Verdict.OK, message="three rows", facts=facts)
    assert read_finding(found.model_dump_json()) == found


def test_other_lines_are_no_findings() -> None:
    for line in ("", "2026-11-28T10:55:39.785Z info checked", "{}", '{"subject": "moon"}', "{broken"):
        assert read_finding(line) is None


def test_no_text_of_a_finding_holds_a_secret_or_controls_a_terminal() -> None:
    secret = "https://user:hunter2@example.com/a?token=hunter3 \x1b[31m"
    facts = ManifestFacts(
        format="csv",
        bytes=7,
        rows=3,
        is_exact=True,
        columns={"url": secret},
        sources=("url",),
        first_rows=(FirstRow(url=secret, id=secret, problem=secret),),
    )
    text = Finding(subject=Subject.MANIFEST, verdict=Verdict.OK, message=secret, facts=facts).model_dump_json()
    assert "hunter" not in text
    assert "\\u001b" not in text


def test_78_comes_before_65_and_65_before_75() -> None:
    passing = fault(Subject.STORE, StoreUnavailable("down"))
    lost = fault(Subject.IMAGES, TooManyFailures("lost"))
    wrong = fault(Subject.MANIFEST, ManifestError("wrong"))
    assert [exit_code_of(found) for found in ([OK], [OK, passing], [passing, lost], [passing, lost, wrong])] == [
        *(0, 75, 65, 78)
    ]
    assert worst([OK]) is None
    assert worst([lost, wrong, passing]) == wrong


def test_among_faults_of_one_exit_code_the_first_that_a_worker_meets_is_named() -> None:
    first, second = (fault(subject, ManifestError("wrong")) for subject in (Subject.STORE, Subject.MODEL))
    assert worst([second, first]) == first
