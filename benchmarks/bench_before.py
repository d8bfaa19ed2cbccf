"""Compares this tree's worker with the worker of an earlier commit, in turn, over HTTP and over HTTPS."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import torch

from benchmarks.bench_worker import BATCH_SIZE
from benchmarks.processes import THIS_TREE, Program, in_turn, median, median_cpu, median_seconds
from benchmarks.ratio import Ratio
from worker.encode.encoder import choose_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.processes import Cost
    from benchmarks.rig import HttpSources, Rig, Source

COMMIT = "0e3fa02"
"""The last commit at which one event loop fetched all images of a worker."""

CACHE = THIS_TREE.folder / ".bench"
"""Folder of the earlier tree and its virtual environment. `make clean` removes it."""

FETCH_CONCURRENCY, FETCH_CONCURRENCY_PER_HOST = 64, 48
"""Numbers of requests in flight of both workers, in all and to one host: the defaults of the earlier one."""

NAMES = ("before", "now")


class CannotCompare(Exception):
    """The earlier tree cannot be had here."""


class _Run(NamedTuple):
    cost: Cost
    server_cpu_seconds: float
    """CPU time that the photo server took meanwhile."""


def compare(rig: Rig, sources: HttpSources, before: Program, *, rows: int, rounds: int) -> list[Ratio]:
    """Compare images/s and CPU an image. A run of few rows measures the start, which is subtracted."""
    # Named, so that both trees use the same values even if their defaults differ.
    settings = {
        "batch_size": BATCH_SIZE,
        "dtype": str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch."),
        "device": "cpu",
        "fetch_concurrency": FETCH_CONCURRENCY,
        "fetch_concurrency_per_host": FETCH_CONCURRENCY_PER_HOST,
    }

    def embed(source: Source, count: int, program: Program) -> _Run:
        served = sources.server.cpu_seconds()
        cost = rig.run_worker(source, count, rig.tiny_model, program=program, settings=settings)
        return _Run(cost, sources.server.cpu_seconds() - served)

    programs = dict(zip(NAMES, (before, THIS_TREE), strict=True))
    runs = in_turn(
        {
            f"{scheme} {name} {count}": partial(embed, source, count, program)
            for scheme, source in sources.by_scheme.items()
            for name, program in programs.items()
            for count in (rows, BATCH_SIZE)
        },
        rounds,
    )
    return [ratio for scheme in sources.by_scheme for ratio in _ratios(scheme, runs, rows)]


def _ratios(scheme: str, runs: dict[str, list[_Run]], rows: int) -> list[Ratio]:
    more = rows - BATCH_SIZE
    seconds, cpu, served = {}, {}, {}
    for name in NAMES:
        many, few = runs[f"{scheme} {name} {rows}"], runs[f"{scheme} {name} {BATCH_SIZE}"]
        many_costs, few_costs = [each.cost for each in many], [each.cost for each in few]
        seconds[name] = (median_seconds(many_costs) - median_seconds(few_costs)) / more
        cpu[name] = (median_cpu(many_costs) - median_cpu(few_costs)) / more
        served[name] = median([each.server_cpu_seconds for each in many]) / rows
    rates = ", ".join(f"{name} {1 / seconds[name]:.0f} images/s" for name in NAMES)
    per_image = ", ".join(f"{name} {cpu[name] * 1000:.2f} ms an image" for name in NAMES)
    server = ", ".join(f"{name} {served[name] * 1000:.2f} ms" for name in NAMES)
    over = f"over {scheme.upper()}, now over {COMMIT}"
    return [
        Ratio(f"images/s {over}", seconds["before"] / seconds["now"], ">= 1.35", rates),
        Ratio(
            f"CPU an image {over}",
            cpu["now"] / cpu["before"],
            "<= 0.8",
            f"{per_image}; the server, on the same cores: {server}",
        ),
    ]


def earlier_tree() -> Program:
    """Return the earlier commit's program, from a work tree of its own with a virtual environment of its own.

    Both are made once. Raises CannotCompare if this is no git repository or does not have the commit.
    """
    folder = CACHE / COMMIT
    python = folder / ".venv" / "bin" / "python"
    is_made = folder / ".venv" / ".made"
    if is_made.exists():
        return Program(folder, str(python))
    _check_out(folder)
    print(f"making the virtual environment of {COMMIT} in {folder}, once", flush=True)
    constraints = folder / ".venv" / "constraints.txt"
    _execute(folder, sys.executable, "-m", "venv", "--clear", str(folder / ".venv"))
    constraints.write_text(_with_torch_of_this_tree((folder / "constraints.txt").read_text("utf-8")), "utf-8")
    # Of the extras that its `make setup` installs, a worker needs this one only.
    _execute(
        folder,
        *(str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints), "--editable", ".[worker]"),
    )
    is_made.touch()
    return Program(folder, str(python))


def _with_torch_of_this_tree(constraints: str) -> str:
    """Return pip's constraints with this tree's version of torch, so that the two trees do not differ in it."""
    lines = [line for line in constraints.splitlines() if not line.startswith("torch==")]
    return "\n".join([*lines, f"torch=={version('torch').partition('+')[0]}", ""])


def _execute(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise CannotCompare(f"the environment of {COMMIT} cannot be made: {' '.join(command)}:\n{done.stdout}")


def _check_out(folder: Path) -> None:
    if shutil.which("git") is None:
        raise CannotCompare(f"git is not installed, so {COMMIT} cannot be checked out to compare with it")
    if (found := _git("rev-parse", "--git-dir")).returncode:
        raise CannotCompare(
            f"{THIS_TREE.folder} has no git history with {COMMIT} to compare with: {found.stderr.strip()}"
        )
    if _git("cat-file", "-e", f"{COMMIT}^{{commit}}").returncode:
        raise CannotCompare(
            f"this repository does not have commit {COMMIT} to compare with; if it is a shallow clone, fetch the rest "
            "with `git fetch --unshallow`"
        )
    if not (folder / "pyproject.toml").exists():
        shutil.rmtree(folder, ignore_errors=True)
        # Forced, because git still knows a work tree whose folder was removed.
        added = _git("worktree", "add", "--force", "--detach", str(folder), COMMIT)
        if added.returncode:
            raise CannotCompare(f"{COMMIT} cannot be checked out: {added.stderr}")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=THIS_TREE.folder, capture_output=True, text=True, check=False)
