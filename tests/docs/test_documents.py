"""The tables, commands, options, links and examples of the documents are right."""

from __future__ import annotations

import re
import shlex
import tomllib
from typing import TYPE_CHECKING

import pytest
import typer.main

from embedder.cli import app
from tools.documents import ROOT, anchors, broken_links, documents, local_links
from tools.settings_reference import RESULT, SETTINGS, with_reasons, with_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = "README.md"
README_BYTES = 10_240
"""Largest size of the README in bytes: a reader should get through it in one go."""


def code_blocks(text: str, *languages: str) -> list[str]:
    """Return the contents of the fenced code blocks in one of the languages."""
    return [
        match[2]
        for match in re.finditer(r"^```([a-z]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if match[1] in languages
    ]


TEXTS = {str(path): (ROOT / path).read_text("utf-8") for path in documents()}
SHELL = [
    (name, line)
    for name, text in TEXTS.items()
    for block in code_blocks(text, "sh", "console")
    for line in block.replace("\\\n", " ").splitlines()
]
PYTHON = [(name, block) for name, text in TEXTS.items() for block in code_blocks(text, "python")]
INLINE = [(name, code) for name, text in TEXTS.items() for code in re.findall(r"`([^`\n]+)`", text)]


def test_the_tables_of_settings_and_reasons_are_current() -> None:
    settings, result = SETTINGS.read_text("utf-8"), RESULT.read_text("utf-8")
    assert with_settings(settings) == settings, "run `make docs`"
    assert with_reasons(result) == result, "run `make docs`"


def test_the_readme_is_a_page() -> None:
    assert len(TEXTS[README].encode()) <= README_BYTES


def test_every_make_verb_that_is_named_exists() -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    commands = [*SHELL, *INLINE]
    named = {verb for _, text in commands for verb in verbs_in(text)}
    assert {"run", "test", "site"} <= named <= verbs


def test_every_link_leads_to_a_file_and_to_a_heading_that_it_has() -> None:
    assert len([link for text in TEXTS.values() for link in local_links(text)]) > 50
    assert broken_links() == []


def test_a_link_to_nothing_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# A page\n\n## One `setting`\n\n[here](#one-setting) and `[code](no.md)`\n")
    (tmp_path / "folder").mkdir()
    assert broken_links(tmp_path) == []
    links = "[file](no.md) [folder](folder) [heading](page.md#two) ![picture](no.svg) [site](https://example.com)"
    (tmp_path / "other.md").write_text(f"# Other\n\n{links}\n")
    assert [problem.split()[1] for problem in broken_links(tmp_path)] == ["no.md", "folder", "page.md#two", "no.svg"]


def test_headings_of_the_same_name_have_anchors_of_their_own() -> None:
    assert anchors("# Twice\n\n## Twice\n\n```sh\n# no heading\n```\n") == {"twice", "twice-1"}


def test_every_command_and_option_of_embedder_that_is_shown_exists() -> None:
    group = typer.main.get_command(app)
    seen = 0
    for name, words in embedder_commands():
        if words[1].startswith("-"):
            command, given = group, words[1:]
        else:
            assert words[1] in group.commands, (name, words)  # type: ignore[attr-defined]
            command, given = group.commands[words[1]], words[2:]  # type: ignore[attr-defined]
        options = {option for each in command.params for option in [*each.opts, *each.secondary_opts, "--help"]}
        for word in given:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in options, (name, words)
        seen += 1
    assert seen > 15


@pytest.mark.parametrize(("name", "code"), PYTHON, ids=[f"{name}-{number}" for number, (name, _) in enumerate(PYTHON)])
def test_every_python_example_compiles(name: str, code: str) -> None:
    compile(code, name, "exec")


def test_the_readme_names_the_images_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    named = re.findall(r"embedder-(?:gpu|merge):([\w.]+)", TEXTS[README])
    assert named
    assert set(named) == {version}


def test_every_page_is_in_the_sites_navigation() -> None:
    navigation = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]
    pages = set(re.findall(r"'([^']+\.md)'", repr(navigation)))
    assert pages == set(TEXTS) - {"examples/photos/CREDITS.md"}


def verbs_in(text: str) -> list[str]:
    """Return the make verbs of a command: `make lint types ARGS=…` has two. Other text has none."""
    verbs: list[str] = []
    for command in re.findall(r"(?:^|&& |\()make ([a-z-][^#&]*)", text):
        for word in command.split():
            if not re.fullmatch(r"[a-z-]+", word):
                break
            verbs.append(word)
    return verbs


def embedder_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield the words of every `embedder …` in a shell block or in inline code, with its document's name."""
    for name, text in [*SHELL, *INLINE]:
        if re.match(r"(?:\$ )?embedder [a-z-]", text):
            yield name, shlex.split(text.removeprefix("$ "), comments=True)
