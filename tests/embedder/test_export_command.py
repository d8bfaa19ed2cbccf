"""`embedder export` as a person calls it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from common.errors import SettingsError
from common.logs import parse_line
from common.store import open_store
from tests.embedder.command_line import embedder
from tests.embedder.test_cli import on_terminal
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of 50 rows in the folder `out`, which is in the working folder."""
    merge_run(open_store(str(tmp_path / "out")))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (["--to", "parquet"], "out.parquet"),
        (["--to", "parquet", "--rows-per-file", "20"], "out-parquet/embeddings-00002.parquet"),
        (["--to", "npy", "--dtype", "float16"], "out-npy/embeddings.npy"),
        (["--to", "faiss"], "out-faiss/index.faiss"),
        (["--to", "usearch"], "out-usearch/index.usearch"),
    ],
)
@pytest.mark.parametrize("given", ["out", "./out/", "."])
def test_without_a_destination_the_export_has_the_runs_name(
    run: Path, monkeypatch: pytest.MonkeyPatch, given: str, options: list[str], made: str
) -> None:
    place = run.parent
    if given == ".":
        monkeypatch.chdir(run)
        place = run
    output = embedder("export", given, *options)
    assert (place / made).exists()
    assert f"{made.partition('/')[0]} has 50 rows as {options[1]}" in output.out


@pytest.mark.slow
@pytest.mark.parametrize("target", ["parquet", "npy", "faiss", "usearch"])
def test_the_command_that_is_printed_opens_the_export(run: Path, target: str) -> None:
    run.rename(run.parent / 'it\'s "out"')
    shown = embedder("export", 'it\'s "out"', "--to", target).out.splitlines()[-1].strip()
    assert shown.startswith("python -c ")
    command = shown.replace("python", f"'{sys.executable}'", 1)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)  # noqa: S602 - as shown
    assert "embedding" in done.stdout if target == "parquet" else "50" in done.stdout


def test_int8_says_how_its_numbers_are_read(run: Path) -> None:
    said = embedder("export", run, "v.npy", "--to", "npy", "--dtype", "int8").out
    scale = float(said.partition("a vector is its int8 numbers times ")[2].split()[0])
    vectors = open_vectors(run)
    assert np.abs(np.load("v.npy") * scale - vectors).max() <= scale * 0.5001


def open_vectors(run: Path) -> NDArray[np.float32]:
    with h5py.File(run / "Images_Embedded.h5") as file:
        vectors: NDArray[np.float32] = file["embeddings"][:]
    return vectors


def test_parts_are_for_parquet_alone(run: Path) -> None:
    with pytest.raises(SettingsError, match="--rows-per-file divides Parquet exports, and --to is npy; leave it out"):
        embedder("export", run, "--to", "npy", "--rows-per-file", "5")


def test_a_run_in_a_bucket_is_exported_to_this_folder(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_run(open_store(f"s3://{bucket}/first"))
    monkeypatch.chdir(tmp_path)
    embedder("export", f"s3://{bucket}/first/", "--to", "npy")
    assert np.load("first-npy/embeddings.npy").shape == (50, 512)


def console_script(run: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"{code}; from embedder.cli import main; main()", "export", *arguments],
        cwd=run.parent,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_library_is_one_sentence_that_names_the_extra(run: Path) -> None:
    done = console_script(run, "import sys; sys.modules['faiss'] = None", "out", "--to", "faiss")
    assert done.returncode == 78
    (line,) = map(parse_line, done.stderr.splitlines())
    assert line is not None
    assert line.values["message"] == (
        "embedder export --to faiss needs faiss-cpu, which is not installed; install the embedder with its extra "
        "`export`: run uv tool install '.[export]' in the folder of its source code"
    )
    assert [path.name for path in run.parent.iterdir()] == ["out"]


def test_a_terminal_shows_a_bar_that_goes_and_the_export_that_stays(run: Path) -> None:
    shown = on_terminal(run.parent, "export", "out", "v.npy", "--to", "npy")
    assert "writing" in shown
    assert "━━━" in shown
    assert "v.npy has 50 rows as npy float32" in shown


def test_what_is_taken_is_one_sentence(run: Path) -> None:
    (run.parent / "v.npy").write_bytes(b"mine")
    done = console_script(run, "pass", "out", "v.npy", "--to", "npy")
    assert done.returncode == 78
    (line,) = map(parse_line, done.stderr.splitlines())
    assert line is not None
    assert line.values["message"] == "v.npy exists; choose another DEST, or replace it with --overwrite"


def test_the_commands_and_examples_of_the_document_run(run: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
    commands = [
        shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("embedder export out")
    ]
    assert len(commands) == 5
    for words in commands:
        embedder(*words[1:])
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(block, names)  # noqa: S102 - the document's own code
    assert shown.getvalue().startswith("[(0, ")
    assert np.asarray(names["rows"])[0, 0] == 0
    vectors = names["table"]["embedding"].combine_chunks().flatten().to_numpy()  # type: ignore[index]
    assert vectors.tobytes() == open_vectors(run).tobytes()
