"""Fuzzes plain_jpeg.c: `python -m worker.decode.plain_jpeg.fuzz [--seconds N] [--jobs N]`, as in `make fuzz`.

It builds the fuzzer in build/fuzz, lets it run, and then compares every input that it kept with the libraries. What it
keeps is in build/fuzz/corpus, and the next run goes on from there. An input that shows a fault is in
build/fuzz/findings, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from worker.decode.plain_jpeg import is_available
from worker.decode.plain_jpeg.tests.fuzz_inputs import SEEDS, DecodersDiffer, is_accepted

HERE = Path(__file__).parent
BUILD = Path("build/fuzz")
FUZZER, COVERAGE = BUILD / "fuzzer", BUILD / "coverage"
CORPUS, FINDINGS = BUILD / "corpus", BUILD / "findings"

TOOLS = ("clang", "llvm-profdata", "llvm-cov")

NEEDED = "make fuzz needs clang with libFuzzer, LLVM's tools and libjpeg-turbo: apt-get install clang llvm libjpeg-dev"

MAX_BYTES = 4096
"""Longest input in bytes. All code can be reached with much shorter ones."""

TIMEOUT_SECONDS = 60
"""Longest time for one input. An input takes a millisecond, but a busy machine may stop a process for some seconds."""

PATIENCE_SECONDS = 120
"""Longest time after the end of the fuzzing until its processes must have ended."""

_SANITIZERS = ("-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_COUNTERS = ("-O1", "-fprofile-instr-generate", "-fcoverage-mapping")


class Coverage(NamedTuple):
    """Shares of plain_jpeg.c that a set of inputs executes, in percent."""

    lines: float
    branches: float

    def __str__(self) -> str:
        return f"{self.lines:.1f} % of the lines and {self.branches:.1f} % of the branches of plain_jpeg.c"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.decode.plain_jpeg.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="how long to fuzz (default: 120)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="number of processes (default: one for each core)")
    wanted = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        sys.exit(f"{NEEDED} ({', '.join(missing)} not found)")
    if not is_available():
        sys.exit("the compiled decoder is not available: it needs a C compiler at installation, and a CPU with AVX2")
    for folder in (CORPUS, FINDINGS):
        folder.mkdir(parents=True, exist_ok=True)
    _build()
    _fuzz(jobs=1, options=["-runs=0"])
    print(f"at the start: {_coverage()}", flush=True)
    print(f"fuzzing for {wanted.seconds} s, {wanted.jobs} at a time; the logs are in {BUILD}", flush=True)
    accepted, inputs = _fuzz(jobs=wanted.jobs, options=[f"-max_total_time={wanted.seconds}"], seconds=wanted.seconds)
    print(f"the decoder accepted {accepted} of {inputs} inputs, all with libjpeg-turbo's pixels")
    print(f"at the end: {_coverage()}", flush=True)
    _compare()


def _build() -> None:
    """Build the fuzzer, and the program that measures the coverage of the inputs. Exits if something is missing."""
    objects: dict[str, list[Path]] = {"fuzzer": [], "coverage": []}
    for source, program, flags in (
        (HERE.parent / "plain_jpeg.c", "fuzzer", ["-DGUARDED_PIECES", "-fsanitize=fuzzer-no-link", *_SANITIZERS]),
        (HERE / "harness.c", "fuzzer", ["-Wall", "-Wextra", *_SANITIZERS]),
        (HERE / "mutator.c", "fuzzer", ["-Wall", "-Wextra", *_SANITIZERS]),
        (HERE.parent / "plain_jpeg.c", "coverage", ["-DGUARDED_PIECES", *_COUNTERS]),
        (HERE / "harness.c", "coverage", ["-O1"]),
    ):
        objects[program].append(BUILD / f"{program}-{source.stem}.o")
        _clang(*flags, "-c", str(source), "-o", str(objects[program][-1]))
    libraries = ["-ljpeg", "-lm"]
    _clang("-fsanitize=fuzzer", *_SANITIZERS, *map(str, objects["fuzzer"]), *libraries, "-o", str(FUZZER))
    _clang("-fsanitize=fuzzer", *_COUNTERS, *map(str, objects["coverage"]), *libraries, "-o", str(COVERAGE))


def _clang(*arguments: str) -> None:
    done = subprocess.run(["clang", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr}\nclang could not build the fuzzer. {NEEDED}")


def _coverage() -> Coverage:
    """Return what the seeds and the corpus execute."""
    raw, merged = BUILD / "coverage.profraw", BUILD / "coverage.profdata"
    environment = os.environ | {"LLVM_PROFILE_FILE": str(raw)}
    command = [str(COVERAGE), "-runs=0", str(CORPUS), str(SEEDS)]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    subprocess.run(["llvm-profdata", "merge", str(raw), "-o", str(merged)], check=True)
    command = ["llvm-cov", "export", "-summary-only", f"-instr-profile={merged}", str(COVERAGE)]
    summary = json.loads(subprocess.check_output(command, text=True))["data"][0]["totals"]
    return Coverage(summary["lines"]["percent"], summary["branches"]["percent"])


def _fuzz(*, jobs: int, options: list[str], seconds: int = 0) -> tuple[int, int]:
    """Run the fuzzer in `jobs` processes, which share the corpus. Returns how many inputs the decoder accepted, and of
    how many. The first finding ends this program."""
    command = [
        *(str(FUZZER), f"-max_len={MAX_BYTES}", f"-timeout={TIMEOUT_SECONDS}", f"-dict={HERE / 'jpeg.dict'}"),
        *(f"-artifact_prefix={FINDINGS}/", *options, str(CORPUS), str(SEEDS)),
    ]
    logs = [BUILD / f"fuzzer-{job}.log" for job in range(jobs)]
    processes = [_started(command, log) for log in logs]
    deadline = time.monotonic() + seconds + PATIENCE_SECONDS
    try:
        while time.monotonic() < deadline:
            ends = [process.poll() for process in processes]
            if None not in ends or any(ends):
                break
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()  # does nothing to a process that has ended
            process.wait()
    for process, log in zip(processes, logs, strict=True):
        if process.returncode > 0:
            sys.exit(_finding(log))
    if any(process.returncode for process in processes):
        sys.exit(f"the fuzzer did not end within {PATIENCE_SECONDS} s after its time")
    counts = [_counts(log) for log in logs]
    return sum(accepted for accepted, _ in counts), sum(inputs for _, inputs in counts)


def _started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


def _counts(log: Path) -> tuple[int, int]:
    """Return how many inputs the decoder accepted, and of how many, from the last line of a log."""
    found = re.findall(r"^accepted (\d+) of (\d+) inputs$", log.read_text("utf-8", "replace"), re.MULTILINE)
    return int(found[-1][0]), int(found[-1][1])


def _finding(log: Path) -> str:
    """Return the last lines of a log with a finding, and where its input is."""
    text = log.read_text("utf-8", "replace")
    kept = re.findall(r"Test unit written to (\S+)", text)
    where = f"the input is {kept[-1]}; `{FUZZER} {kept[-1]}` runs it again" if kept else "no input was kept"
    return f"{text[-4000:]}\nthe fuzzer found a fault: {where}; the log is {log}"


def _compare() -> None:
    """Compare all seeds and all inputs of the corpus with the libraries. Exits if one differs."""
    paths = sorted([*SEEDS.iterdir(), *CORPUS.iterdir()])
    accepted = 0
    for path in paths:
        data = path.read_bytes()
        try:
            accepted += is_accepted(data)
        except DecodersDiffer as difference:
            kept = FINDINGS / f"difference-{path.name}"
            kept.write_bytes(data)
            sys.exit(f"simplejpeg or torch contradicts the decoder on {kept}: {difference}")
    print(f"kept inputs: {len(paths)}, of which the decoder accepts {accepted}, with simplejpeg's and torch's pixels")


if __name__ == "__main__":
    main()
