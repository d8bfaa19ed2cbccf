"""Finding a model: folders that are one, folders that are not, and a hub that cannot be asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, ModelError
from tests.worker.encode.models import TINY_VISION, as_pickled_weights, save_clip, save_preprocessor, save_vision_tower
from worker.encode.encoder import load_vision_tower
from worker.encode.model import OPENAI_MEAN, OPENAI_STD, UNTRAINED, find_model


def find(folder: Path) -> Any:  # noqa: ANN401 - a ModelSource, whose fields the tests look at
    return find_model(str(folder), revision="ignored")


@pytest.fixture
def copy_of_tiny(tiny_clip: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_clip, tmp_path / "model")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_a_folder_tells_size_mean_and_deviation(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "m", vision=TINY_VISION | {"image_size": 48}, projection_dim=8)
    save_preprocessor(folder, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    source = find(folder)
    assert (source.image_size, source.mean, source.std) == (48, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (source.name, source.revision, source.folder) == (str(folder), "", folder)


def test_a_vision_tower_alone_without_a_preprocessor_has_clips_mean_and_deviation(tmp_path: Path) -> None:
    source = find(save_vision_tower(tmp_path / "m", vision=TINY_VISION | {"image_size": 40}, projection_dim=8))
    assert (source.image_size, source.mean, source.std) == (40, OPENAI_MEAN, OPENAI_STD)


def test_the_untrained_model_names_its_seed_and_the_libraries_that_make_it() -> None:
    source = find_model(UNTRAINED, revision="")
    assert source.folder is None
    assert source.image_size == 224
    assert "seed-0" in source.weights
    assert "torch-" in source.weights


def test_the_hash_is_that_of_the_content_and_not_of_the_place(tiny_clip: Path, copy_of_tiny: Path) -> None:
    assert find(copy_of_tiny).weights == find(tiny_clip).weights
    assert find(tiny_clip).weights.startswith("sha256:")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_any_change_of_weights_or_configuration_changes_the_hash(
    tiny_clip: Path, copy_of_tiny: Path, name: str
) -> None:
    with (copy_of_tiny / name).open("ab") as file:
        file.write(b"\n")
    assert find(copy_of_tiny).weights != find(tiny_clip).weights


def test_files_that_decide_nothing_do_not_change_the_hash(tiny_clip: Path, copy_of_tiny: Path) -> None:
    (copy_of_tiny / "README.md").write_text("about the model")
    (copy_of_tiny / "pytorch_model.bin").write_bytes(b"not looked at beside safetensors")
    assert find(copy_of_tiny).weights == find(tiny_clip).weights


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"/no/such/folder.*no such folder"):
        find_model("/no/such/folder", revision="")


def test_a_folder_without_a_configuration_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        find(tmp_path)


def test_a_folder_without_weights_is_no_model(copy_of_tiny: Path) -> None:
    (copy_of_tiny / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        find(copy_of_tiny)


@pytest.mark.parametrize("kind", ["bert", "siglip", "clip_text_model", None])
def test_a_model_of_another_type_is_refused_by_its_type(copy_of_tiny: Path, kind: str | None) -> None:
    edit_json(copy_of_tiny / "config.json", model_type=kind)
    with pytest.raises(ModelError, match=f"{kind!r}"):
        find(copy_of_tiny)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ufeff{"])
def test_a_configuration_that_cannot_be_read_is_named(copy_of_tiny: Path, text: str) -> None:
    (copy_of_tiny / "config.json").write_text(text, "utf-8")
    with pytest.raises(ModelError, match=r"config\.json"):
        find(copy_of_tiny)


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_config": None},
        {"vision_config": {"image_size": "large"}},
        {"vision_config": {"image_size": [224, 224]}},
    ],
)
def test_a_vision_tower_without_a_size_is_refused(copy_of_tiny: Path, changes: dict[str, object]) -> None:
    edit_json(copy_of_tiny / "config.json", **changes)
    with pytest.raises(ModelError, match=r"config\.json"):
        find(copy_of_tiny)


@pytest.mark.parametrize("mean", [[0.5], [0.5, 0.5, 0.5, 0.5], 0.5, ["red", "green", "blue"], None])
def test_a_mean_that_is_not_of_three_channels_is_refused(copy_of_tiny: Path, mean: object) -> None:
    edit_json(copy_of_tiny / "preprocessor_config.json", image_mean=mean)
    with pytest.raises(ModelError, match="three channels"):
        find(copy_of_tiny)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_weights_that_may_not_be_read_are_named(copy_of_tiny: Path) -> None:
    (copy_of_tiny / "model.safetensors").chmod(0)
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        find(copy_of_tiny)


def test_broken_safetensors_are_refused(copy_of_tiny: Path) -> None:
    weights = copy_of_tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_vision_tower(find(copy_of_tiny))


def test_weights_of_another_shape_than_the_configurations_are_refused(copy_of_tiny: Path) -> None:
    config = json.loads((copy_of_tiny / "config.json").read_text("utf-8"))
    edit_json(copy_of_tiny / "config.json", vision_config=config["vision_config"] | {"intermediate_size": 48})
    with pytest.raises(ModelError, match=str(copy_of_tiny)):
        load_vision_tower(find(copy_of_tiny))


def test_a_tower_that_lacks_a_weight_is_refused_by_the_weights_name(copy_of_tiny: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    weights = load_file(copy_of_tiny / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, copy_of_tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights.*visual_projection\.weight"):
        load_vision_tower(find(copy_of_tiny))


def test_pickled_weights_are_the_same_tower(tiny_clip: Path, copy_of_tiny: Path) -> None:
    import torch  # noqa: PLC0415

    safe = load_vision_tower(find(tiny_clip)).state_dict()
    pickled = load_vision_tower(find(as_pickled_weights(copy_of_tiny))).state_dict()
    assert safe.keys() == pickled.keys()
    assert all(torch.equal(safe[name], pickled[name]) for name in safe)


FIND_APART = """
import sys
from common.errors import EmbedderError
from worker.encode.model import find_model
try:
    find_model(sys.argv[1], revision="main")
except EmbedderError as error:
    print(type(error).__name__, error)
"""


def find_apart(name: str, **environment: str) -> str:
    """Return the error that ends the search for a model in a process of its own: the hub's client reads its environment
    once, as it is imported.
    """
    run = subprocess.run(
        [sys.executable, "-c", FIND_APART, name],
        cwd=Path(__file__).parents[3],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_model_of_the_hub_that_is_not_cached_is_not_found_offline(tmp_path: Path) -> None:
    said = find_apart("openai/clip-vit-base-patch32", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert said.startswith("ModelError ")
    assert "'openai/clip-vit-base-patch32'" in said
    assert "set EMBEDDER_MODEL to their folder" in said


def test_a_hub_that_refuses_connections_may_do_better_later(tmp_path: Path) -> None:
    said = find_apart("some/model", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    assert said.startswith("SourceUnavailable ")
    assert "'some/model'" in said


def test_what_is_neither_a_folder_nor_an_id_is_refused(tmp_path: Path) -> None:
    said = find_apart("a model/of no/kind", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert said.startswith("ModelError ")
    assert "neither a folder nor an id" in said
