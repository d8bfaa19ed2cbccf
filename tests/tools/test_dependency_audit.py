"""The audit of the pinned packages. The vulnerability service has data, has none, or does not answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.image_server import Behaviour, answer, image_server, reset, stall
from tools.dependency_audit import CONSTRAINTS, KNOWN, Finding, Unanswered, find_vulnerabilities, main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.image_server import ImageServer

PATH = "/v1/query"


def knowing(*vulnerable: str) -> Behaviour:
    """Answer as OSV would if every version below 99 of these packages were vulnerable."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        name = json.loads(await request.text())["package"]["name"]
        if name not in vulnerable:
            return web.json_response({})
        affected = {
            "package": {"name": name, "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}],
        }
        found = {"id": f"PYSEC-{name}", "summary": "bad", "affected": [affected]}
        return web.json_response({"vulns": [found]})

    return behave


@pytest.fixture
def service() -> Iterator[ImageServer]:
    with image_server() as server:
        yield server


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    path = tmp_path / "constraints.txt"
    path.write_text("numpy==2.0\nuvloop==0.21\n")
    return path


def options(service: ImageServer) -> list[str]:
    return ["--osv-url", service.url(PATH)]


def test_a_finding_fails_lint_and_names_package_vulnerability_and_remedy(
    service: ImageServer, pins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.on(PATH, knowing(KNOWN[0], "uvloop"))
    assert find_vulnerabilities(pins, options(service)) == [Finding("uvloop", "0.21", "PYSEC-uvloop", "99")]
    assert main(options(service), pins=pins) == 1
    assert "uvloop 0.21 has PYSEC-uvloop, fixed in: 99" in capsys.readouterr().err


def test_a_finding_counts_even_if_the_service_misses_the_known_vulnerability(service: ImageServer, pins: Path) -> None:
    service.on(PATH, knowing("uvloop"))
    assert main(options(service), pins=pins) == 1


def test_a_reviewed_finding_can_be_ignored(service: ImageServer, pins: Path) -> None:
    service.on(PATH, knowing(KNOWN[0], "uvloop"))
    assert main([*options(service), "--ignore-vuln", "PYSEC-uvloop"], pins=pins) == 0


def test_packages_without_findings_pass(service: ImageServer, pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.on(PATH, knowing(KNOWN[0]))
    assert main(options(service), pins=pins) == 0
    assert "no pinned package has a known vulnerability" in capsys.readouterr().err


@pytest.mark.parametrize(
    "behaviour",
    [knowing(), answer(status=404), answer(status=503), answer(b"<html>log in</html>"), reset()],
    ids=["knows nothing", "404", "503", "a login page", "reset"],
)
def test_without_an_answer_the_audit_says_so_in_one_line_and_fails_nothing(
    service: ImageServer, pins: Path, capsys: pytest.CaptureFixture[str], behaviour: Behaviour
) -> None:
    service.on(PATH, behaviour)
    assert main(options(service), pins=pins) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "not done" in said
    assert '"Known vulnerabilities" in CONTRIBUTING.md' in said


def test_an_audit_that_hangs_is_stopped(service: ImageServer, pins: Path) -> None:
    service.on(PATH, stall())
    with pytest.raises(Unanswered, match="within 3 s"):
        find_vulnerabilities(pins, options(service), seconds=3)


def test_every_pinned_package_is_audited(service: ImageServer) -> None:
    service.on(PATH, knowing(KNOWN[0], "numpy"))
    assert [finding.package for finding in find_vulnerabilities(CONSTRAINTS, options(service))] == ["numpy"]
    assert service.count(PATH) == 1 + sum("==" in line for line in CONSTRAINTS.read_text("utf-8").splitlines())
