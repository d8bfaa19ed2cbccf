"""Finding a model: in valid and invalid folders, and on a hub that cannot be reached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import ConfigError, ModelError
from tests.worker.encode.models import TINY_VISION, as_pickled_weights, save_clip, save_preprocessor, save_vision_tower
from worker.encode.model import OPENAI_MEAN, OPENAI_STD, UNTRAINED, find_model
from worker.encode.vision_tower import load_vision_tower
from worker.encode.weights import save_vision_tower as save_tower

if TYPE_CHECKING:
    from collections.abc import Mapping


def find(folder: Path) -> Any:  # noqa: ANN401 - a ModelSource; the tests compare its fields
    return find_model(str(folder), revision="ignored")


@pytest.fixture
def copy_of_tiny(tiny_clip: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_clip, tmp_path / "model")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_size_mean_and_deviation_come_from_the_folder(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "m", vision=TINY_VISION | {"image_size": 48}, projection_dim=8)
    save_preprocessor(folder, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    source = find(folder)
    assert (source.image_size, source.mean, source.std) == (48, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (source.name, source.revision, source.folder) == (str(folder), "", folder)


def test_a_vision_tower_without_a_preprocessor_has_clips_mean_and_deviation(tmp_path: Path) -> None:
    source = find(save_vision_tower(tmp_path / "m", vision=TINY_VISION | {"image_size": 40}, projection_dim=8))
    assert (source.image_size, source.mean, source.std) == (40, OPENAI_MEAN, OPENAI_STD)


def test_the_untrained_model_names_its_seed_and_its_libraries() -> None:
    source = find_model(UNTRAINED, revision="")
    assert source.folder is None
    assert source.image_size == 224
    assert "seed-0" in source.weights
    assert "torch-" in source.weights


def test_the_hash_depends_on_the_content_and_not_on_the_folder(tiny_clip: Path, copy_of_tiny: Path) -> None:
    assert find(copy_of_tiny).weights == find(tiny_clip).weights
    assert find(tiny_clip).weights.startswith("sha256:")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_any_change_of_weights_or_configuration_changes_the_hash(
    tiny_clip: Path, copy_of_tiny: Path, name: str
) -> None:
    with (copy_of_tiny / name).open("ab") as file:
        file.write(b"\n")
    assert find(copy_of_tiny).weights != find(tiny_clip).weights


def test_other_files_do_not_change_the_hash(tiny_clip: Path, copy_of_tiny: Path) -> None:
    (copy_of_tiny / "README.md").write_text("about the model")
    (copy_of_tiny / "pytorch_model.bin").write_bytes(b"not read if there are safetensors")
    assert find(copy_of_tiny).weights == find(tiny_clip).weights


def test_the_error_names_a_folder_that_does_not_exist() -> None:
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
def test_a_model_of_another_type_is_refused_and_its_type_named(copy_of_tiny: Path, kind: str | None) -> None:
    edit_json(copy_of_tiny / "config.json", model_type=kind)
    with pytest.raises(ModelError, match=f"{kind!r}"):
        find(copy_of_tiny)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ufeff{"])
def test_the_error_names_a_configuration_that_cannot_be_read(copy_of_tiny: Path, text: str) -> None:
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
def test_a_mean_without_exactly_three_channels_is_refused(copy_of_tiny: Path, mean: object) -> None:
    edit_json(copy_of_tiny / "preprocessor_config.json", image_mean=mean)
    with pytest.raises(ModelError, match="three channels"):
        find(copy_of_tiny)


OPENAI = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": OPENAI_MEAN,
    "image_std": OPENAI_STD,
    "resample": 3,
    "size": 224,
}
"""The configuration of openai/clip-vit-base-patch32."""

LATER = OPENAI | {
    "crop_size": {"height": 224, "width": 224},
    "do_convert_rgb": True,
    "do_rescale": True,
    "image_processor_type": "CLIPImageProcessor",
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
"""The same as later releases of transformers write it, as for laion/CLIP-ViT-B-32-laion2B-s34B-b79K."""

SIGLIP: dict[str, object] = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "SiglipProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 224, "width": 224},
}


def with_processor(
    folder: Path,
    processor: Mapping[str, object] | None,
    *,
    image_size: int = 224,
    file: str = "preprocessor_config.json",
) -> Path:
    """Give the model in `folder` this image size and this processor. Only its configuration is read."""
    vision = json.loads((folder / "config.json").read_text("utf-8"))["vision_config"]
    edit_json(folder / "config.json", vision_config=vision | {"image_size": image_size})
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    if processor is not None:
        (folder / file).write_text(json.dumps(processor), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("processor", "image_size"),
    [
        (OPENAI, 224),
        (OPENAI | {"size": 336, "crop_size": 336}, 336),  # openai/clip-vit-large-patch14-336
        (LATER, 224),
        (LATER | {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}, 336),
        (LATER | {"size": {"shortest_edge": 224, "longest_edge": None}, "image_processor_type": None}, 224),
        (LATER | {"image_processor_type": "BitImageProcessor"}, 224),  # another class with the same steps, all named
        ({"image_mean": OPENAI_MEAN, "image_std": OPENAI_STD}, 224),
        ({"image_processor_type": "CLIPImageProcessorFast"}, 336),
        ({}, 224),
        (None, 336),
    ],
)
def test_a_model_with_openais_preprocessing_in_any_form_is_found(
    processor: Mapping[str, object] | None, image_size: int, copy_of_tiny: Path
) -> None:
    assert find(with_processor(copy_of_tiny, processor, image_size=image_size)).image_size == image_size


@pytest.mark.parametrize(
    ("processor", "found", "needed"),
    [
        (OPENAI | {"resample": 2}, "resample 2", "resample 3"),
        (OPENAI | {"size": 256}, "size 256", 'size {"shortest_edge": 224}'),
        (OPENAI | {"crop_size": 256}, "crop_size 256", 'crop_size {"height": 224, "width": 224}'),
        (OPENAI | {"do_center_crop": False}, "do_center_crop false", "do_center_crop true"),
        (OPENAI | {"do_resize": False}, "do_resize false", "do_resize true"),
        (OPENAI | {"do_normalize": False}, "do_normalize false", "do_normalize true"),
        (LATER | {"do_rescale": False}, "do_rescale false", "do_rescale true"),
        (LATER | {"rescale_factor": 1 / 127.5}, "rescale_factor 0.00784", "rescale_factor 0.00392"),
        (LATER | {"do_convert_rgb": False}, "do_convert_rgb false", "do_convert_rgb true"),
        # both sides are resized, whatever the shape of the image
        (
            LATER | {"size": {"height": 224, "width": 224}},
            'size {"height": 224, "width": 224}',
            'size {"shortest_edge"',
        ),
        (LATER | {"crop_size": {"height": 224, "width": 112}}, '"width": 112}', '"width": 224}'),
        (LATER | {"size": [224, 224]}, "size [224, 224]", 'size {"shortest_edge": 224}'),
        ({"use_square_size": True}, "use_square_size true", "use_square_size null"),
        (
            SIGLIP,
            'its SiglipImageProcessor has size {"height": 224, "width": 224}, do_center_crop null',
            "do_center_crop true",
        ),
        ({"image_processor_type": "ViTImageProcessor"}, "resample null", "resample 3"),
    ],
)
def test_a_model_with_another_preprocessing_is_refused_with_what_was_found_and_what_is_needed(
    processor: Mapping[str, object], found: str, needed: str, copy_of_tiny: Path
) -> None:
    with pytest.raises(ModelError) as raised:
        find(with_processor(copy_of_tiny, processor))
    before, after = str(raised.value).split("and this program computes")
    assert before.startswith(f"{copy_of_tiny} prepares its images in another way than OpenAI's CLIP")
    assert found in before
    assert needed in after


def test_a_processor_of_openais_for_another_size_than_the_models_is_refused(copy_of_tiny: Path) -> None:
    with pytest.raises(ModelError, match=r"has size 224, crop_size 224, and .* size .* 336"):
        find(with_processor(copy_of_tiny, OPENAI, image_size=336))


def test_a_processor_that_transformers_5_nests_in_another_file_counts_and_is_part_of_the_hash(
    copy_of_tiny: Path,
) -> None:
    nested = {"image_processor": LATER | {"image_mean": [0.1, 0.2, 0.3]}, "processor_class": "CLIPProcessor"}
    source = find(with_processor(copy_of_tiny, nested, file="processor_config.json"))
    assert source.mean == (0.1, 0.2, 0.3)
    edit_json(copy_of_tiny / "processor_config.json", image_processor=LATER)
    assert find(copy_of_tiny).weights != source.weights
    edit_json(copy_of_tiny / "processor_config.json", image_processor=SIGLIP)
    with pytest.raises(ModelError, match="SiglipImageProcessor"):
        find(copy_of_tiny)


def test_a_file_of_that_name_without_a_processor_of_images_says_nothing(copy_of_tiny: Path) -> None:
    before = find(copy_of_tiny)
    (copy_of_tiny / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}', "utf-8")
    assert find(copy_of_tiny) == before


def test_a_saved_tower_keeps_its_processor(copy_of_tiny: Path, tmp_path: Path) -> None:
    nested = {"image_processor": LATER | {"image_mean": [0.1, 0.2, 0.3], "size": 32, "crop_size": 32}}
    source = find(with_processor(copy_of_tiny, nested, image_size=32, file="processor_config.json"))
    save_tower(source, tmp_path / "saved")
    assert find(tmp_path / "saved").mean == (0.1, 0.2, 0.3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_the_error_names_weights_that_must_not_be_read(copy_of_tiny: Path) -> None:
    (copy_of_tiny / "model.safetensors").chmod(0)
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        find(copy_of_tiny)


def test_broken_safetensors_are_refused(copy_of_tiny: Path) -> None:
    weights = copy_of_tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_vision_tower(find(copy_of_tiny))


def test_weights_whose_shape_differs_from_the_configuration_are_refused(copy_of_tiny: Path) -> None:
    config = json.loads((copy_of_tiny / "config.json").read_text("utf-8"))
    edit_json(copy_of_tiny / "config.json", vision_config=config["vision_config"] | {"intermediate_size": 48})
    with pytest.raises(ModelError, match=str(copy_of_tiny)):
        load_vision_tower(find(copy_of_tiny))


def test_a_tower_that_lacks_a_weight_is_refused_and_the_weight_named(copy_of_tiny: Path) -> None:
    weights = load_file(copy_of_tiny / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, copy_of_tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights.*visual_projection\.weight"):
        load_vision_tower(find(copy_of_tiny))


def test_pickled_weights_are_the_same_tower(tiny_clip: Path, copy_of_tiny: Path) -> None:
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
    """Return the error of `find_model` in a separate process.

    The hub's client reads its environment only once, when it is imported.
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


@pytest.mark.slow
def test_a_hub_that_refuses_connections_is_unavailable(tmp_path: Path) -> None:
    said = find_apart("some/model", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    assert said.startswith("SourceUnavailable ")
    assert "'some/model'" in said


def test_a_name_that_is_neither_a_folder_nor_an_id_is_refused(tmp_path: Path) -> None:
    said = find_apart("a model/of no/kind", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert said.startswith("ModelError ")
    assert "neither a folder nor an id" in said
