"""The tests that docs/reliability.md names exist, and its retry budgets are those of the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tools.documents import ROOT
from tools.settings_reference import SETTINGS
from tools.values_reference import DOCUMENT as VALUES

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (ROOT / "docs" / "reliability.md").read_text("utf-8")
PROMISES, _, REST = TEXT.partition("\n## Retry budgets\n")
BUDGETS, _, _ = REST.partition("\n## Not promised\n")

NAMED_TESTS = sorted(set(re.findall(r"`(test_\w+)`", TEXT)))
BUDGET_ROWS = [line for line in BUDGETS.splitlines() if line.startswith("| ")][2:]
PACKAGES = ("common", "worker", "merger", "k8s", "embedder")


@cache
def module(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def functions_by_name() -> dict[str, list[ast.FunctionDef]]:
    """Return all test functions by their names, those that lie beside the code they test included."""
    found: dict[str, list[ast.FunctionDef]] = {}
    for folder in ("tests", *PACKAGES):
        for path in (ROOT / folder).rglob("test_*.py"):
            for node in module(path).body:
                if isinstance(node, ast.FunctionDef):
                    found.setdefault(node.name, []).append(node)
    return found


def is_always_skipped(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("pytest.mark.skip(") for decorator in function.decorator_list)


@pytest.mark.parametrize("name", NAMED_TESTS)
def test_every_test_that_is_named_exists_once_and_is_run(name: str) -> None:
    functions = functions_by_name().get(name, [])
    assert len(functions) == 1
    assert not is_always_skipped(functions[0])


def test_every_promise_names_a_test_and_every_name_is_a_whole_one() -> None:
    promises = re.split(r"\n- ", PROMISES)[1:]
    assert len(promises) > 50
    for promise in promises:
        assert re.search(r"`test_\w+`", promise), promise
    assert TEXT.count("test_") == len(re.findall(r"`test_\w+`", TEXT))


def constant(file: str, name: str) -> float:
    """Return the number that the one module called `file` that has the constant gives to it."""
    values = [
        node.value.value
        for package in PACKAGES
        for path in (ROOT / package).rglob(file)
        for node in module(path).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id == name and isinstance(node.value.value, int | float)
    ]
    (value,) = values
    return value


def values_of(names: str) -> list[str]:
    """Return the numbers that the names stand for, from the code and from the tables of settings and of values."""
    values = [f"{constant(file, name):g}" for file, name in re.findall(r"`(\w+\.py)::(\w+)`", names)]
    tables = SETTINGS.read_text("utf-8") + VALUES.read_text("utf-8")
    for name in re.findall(r"`(EMBEDDER_\w+|(?:worker|merge)\.\w+)`", names):
        (default,) = re.findall(rf"^\| `{re.escape(name)}` \| `([0-9.]+)` \|", tables, re.MULTILINE)
        values.append(default)
    return values


@pytest.mark.parametrize("row", BUDGET_ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_retry_budget_in_the_document_is_that_of_the_code(row: str) -> None:
    _, _, amount, _, names, _ = row.split("|")
    expected = values_of(names)
    assert expected
    assert set(expected) <= set(re.findall(r"\d+(?:\.\d+)?", amount))
