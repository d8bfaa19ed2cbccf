"""Asks whether a pinned package has a known vulnerability: `python -m tools.dependency_audit`, as in `make lint`.

pip-audit asks OSV about every line of constraints.txt, and about one package more whose vulnerability is known. Where
that is not reported, whoever answered has no data, and nothing is known about the others either. Exit code 1 means
findings; not to have been answered is said in one line, and is no error: lint runs without a network too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"

KNOWN = ("flask", "0.12.2")
"""CVE-2018-1000656, which stays one."""

SECONDS = 120
"""For all packages together, ten times what they take."""

MANUAL_STEP = 'see "Known vulnerabilities" in the README'


class Unanswered(Exception):
    """Nobody who knows has answered."""


class Finding(NamedTuple):
    package: str
    version: str
    vulnerability: str
    fixed_in: str


def find_vulnerabilities(pins: Path, options: Sequence[str] = (), *, seconds: float = SECONDS) -> list[Finding]:
    """Return what is known about the packages pinned in the file. `options` are pip-audit's.

    Raises Unanswered when it cannot be found out.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as known:
        known.write("==".join(KNOWN))
        known.flush()
        command = ["-r", str(pins), "-r", known.name, "--no-deps", "--disable-pip", "--vulnerability-service", "osv"]
        command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10", *options]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pip_audit", *command],
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unanswered(f"no answer within {seconds:.0f} s") from error
    try:
        # Its exit code is 1 for findings and for every way of failing; a report comes with findings alone.
        packages = json.loads(done.stdout)["dependencies"]
        findings = [
            Finding(package["name"], package["version"], found["id"], ", ".join(found["fix_versions"]) or "none")
            for package in packages
            for found in package.get("vulns", [])
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise Unanswered(next(iter(reversed(done.stderr.strip().splitlines())), "no report")[:300]) from error
    unexpected = [finding for finding in findings if finding[:2] != KNOWN]
    if unexpected:
        return unexpected
    if not findings:
        raise Unanswered(f"{'=='.join(KNOWN)} was called free of known vulnerabilities")
    if skipped := [package["name"] for package in packages if "skip_reason" in package]:
        raise Unanswered(f"nothing was said about {', '.join(skipped)}")
    return []


def main(options: Sequence[str], *, pins: Path = CONSTRAINTS) -> int:
    """Say what is known about the pinned packages, and return the exit code."""
    try:
        findings = find_vulnerabilities(pins, options)
    except Unanswered as why:
        sys.stderr.write(f"dependency audit: not done, {why}; {MANUAL_STEP}\n")
        return 0
    for finding in findings:
        sys.stderr.write(
            f"dependency audit: {finding.package} {finding.version} has {finding.vulnerability}, fixed in: "
            f"{finding.fixed_in}\n"
        )
    if not findings:
        sys.stderr.write("dependency audit: nothing is known against the pinned packages\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
