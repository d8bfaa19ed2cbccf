"""The README says what is so: its tables, its commands, its files."""

from __future__ import annotations

import re
import shlex

import pytest

from tools.settings_reference import README, with_tables

ROOT = README.parent
TEXT = README.read_text("utf-8")


def test_the_tables_of_settings_and_reasons_are_current() -> None:
    assert with_tables(TEXT) == TEXT, "run `make docs`"


def test_every_make_verb_that_is_named_exists() -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", "\n".join(_code())))
    assert {"run", "test"} <= named <= verbs


def test_every_file_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT):
        assert (ROOT / target).exists(), target


def test_every_option_of_embedder_that_is_shown_exists() -> None:
    import typer.main  # noqa: PLC0415

    from embedder.cli import app  # noqa: PLC0415

    group = typer.main.get_command(app)
    shown = [line for code in _code() for line in code.replace("\\\n", " ").splitlines() if "embedder " in line]
    seen = 0
    for line in shown:
        words = shlex.split(line.partition("#")[0])
        if not words or words[0].rpartition("/")[2] != "embedder":
            continue
        command = group.commands[words[1]]  # type: ignore[attr-defined]
        options = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
        for word in words[2:]:
            if word.startswith("-"):
                assert word.partition("=")[0] in options, line
        seen += 1
    assert seen >= 3


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_every_python_example_compiles(code: str) -> None:
    compile(code, "README.md", "exec")


def _code() -> list[str]:
    return [block.replace("$ ", "") for block in re.findall(r"```(?:sh|console)\n(.*?)```", TEXT, re.DOTALL)]
