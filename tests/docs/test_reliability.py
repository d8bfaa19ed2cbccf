"""docs/reliability.md names tests that exist, and budgets that are the code's."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tools.settings_reference import README

ROOT = README.parent
TEXT = (ROOT / "docs" / "reliability.md").read_text("utf-8")
PROMISES, _, REST = TEXT.partition("\n## Retry budgets\n")
BUDGETS, _, _ = REST.partition("\n## Not promised\n")

NAMED_TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
BUDGET_ROWS = [line for line in BUDGETS.splitlines() if line.startswith("| ")][2:]


@cache
def module(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"))


def is_always_skipped(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("pytest.mark.skip(") for decorator in function.decorator_list)


@pytest.mark.parametrize(("path", "name"), NAMED_TESTS, ids=lambda part: part.rpartition("/")[2])
def test_every_test_that_is_named_exists_and_is_run(path: str, name: str) -> None:
    functions = [node for node in module(path).body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert len(functions) == 1
    assert name.startswith("test_")
    assert not is_always_skipped(functions[0])


def test_every_promise_names_a_test_and_every_name_is_a_whole_one() -> None:
    promises = re.split(r"\n- ", PROMISES)[1:]
    assert len(promises) > 50
    for promise in promises:
        assert re.search(r"`tests/[\w/]+\.py(::\w+)?`", promise), promise
    assert TEXT.count("::test_") == len(re.findall(r"`tests/[\w/]+\.py::test_\w+`", TEXT))


def values_of(names: str) -> list[str]:
    """Return the numbers in the code and in the README's tables of settings that the names stand for."""
    values: list[str] = []
    for path, name in re.findall(r"`(\w+/\w+\.py)::(\w+)`", names):
        assigned = {
            target.id: node.value.value
            for node in module(path).body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, int | float)
        }
        values.append(f"{assigned[name]:g}")
    readme = README.read_text("utf-8")
    for name in re.findall(r"`(EMBEDDER_\w+|(?:worker|merge)\.\w+)`", names):
        (default,) = re.findall(rf"^\| `{re.escape(name)}` \| `([0-9.]+)` \|", readme, re.MULTILINE)
        values.append(default)
    return values


@pytest.mark.parametrize("row", BUDGET_ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_budget_is_the_codes(row: str) -> None:
    _, _, amount, _, names, _ = row.split("|")
    expected = values_of(names)
    assert expected
    assert set(expected) <= set(re.findall(r"\d+(?:\.\d+)?", amount))
