"""Asks whether a pinned package has a known vulnerability: `python -m tools.dependency_audit`, as in `make lint`.

pip-audit asks OSV about every line of constraints.txt, and about one more package that is known to be vulnerable. If
the answer does not report that package, the service has no data, and its answer says nothing about the other packages.
Exit code 1 means findings. Without an answer the audit says so in one line and exits 0, because lint must also pass
without a network.
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
"""Name and version of a package with a vulnerability that will stay known: CVE-2018-1000656."""

SECONDS = 120
"""Longest time for the answers about all packages, in seconds: ten times what they usually take."""

MANUAL_STEP = 'see "Known vulnerabilities" in CONTRIBUTING.md'


class Unanswered(Exception):
    """No service with data has answered."""


class Finding(NamedTuple):
    package: str
    version: str
    vulnerability: str
    fixed_in: str


def find_vulnerabilities(pins: Path, options: Sequence[str] = (), *, seconds: float = SECONDS) -> list[Finding]:
    """Return the known vulnerabilities of the packages that the file pins. `options` are passed to pip-audit.

    Raises Unanswered when the service gives no useful answer within `seconds`.
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
        # pip-audit's exit code is 1 for findings and for every error. Only with findings does it print a report.
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
        raise Unanswered(f"{'=='.join(KNOWN)} is reported without its known vulnerability")
    if skipped := [package["name"] for package in packages if "skip_reason" in package]:
        raise Unanswered(f"the report skips {', '.join(skipped)}")
    return []


def main(options: Sequence[str], *, pins: Path = CONSTRAINTS) -> int:
    """Print the known vulnerabilities of the pinned packages, and return the exit code."""
    try:
        findings = find_vulnerabilities(pins, options)
    except Unanswered as error:
        sys.stderr.write(f"dependency audit: not done, {error}; {MANUAL_STEP}\n")
        return 0
    for finding in findings:
        sys.stderr.write(
            f"dependency audit: {finding.package} {finding.version} has {finding.vulnerability}, fixed in: "
            f"{finding.fixed_in}\n"
        )
    if not findings:
        sys.stderr.write("dependency audit: no pinned package has a known vulnerability\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
