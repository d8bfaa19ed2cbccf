"""Vectors of texts: the same as those of transformers' own whole model, and what a folder may lack."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import transformers

from common.errors import ModelError
from tests.worker.encode.models import TINY_VISION, save_vision_tower
from worker.encode.model import UNTRAINED, find_model
from worker.encode.query_encoder import QueryEncoder
from worker.encode.text_tower import load_text_tower
from worker.encode.weights import save_vision_tower as save_folder

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from worker.encode.text_tower import TextTower


def tower_of(folder: Path) -> TextTower:
    return load_text_tower(find_model(str(folder), revision=""))


def published(folder: Path, text: str) -> NDArray[np.float32]:
    """Return the normalised features of transformers' own model and tokenizer."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt", truncation=True)
    with torch.inference_mode():
        features = model.get_text_features(**tokens).pooler_output
    vector: NDArray[np.float32] = torch.nn.functional.normalize(features, dim=-1)[0].numpy()
    return vector


@pytest.mark.parametrize("text", ["dog", "a cat, a dog", "Ein Hund: 狗 🐕", "  two   spaces "])
def test_a_text_has_the_vector_of_the_whole_model(talking_clip: Path, text: str) -> None:
    found = tower_of(talking_clip).vector(text)
    assert not found.is_cut
    assert np.allclose(found.vector, published(talking_clip, text), atol=1e-6)
    assert np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-6)


def test_capital_letters_make_no_difference(talking_clip: Path) -> None:
    tower = tower_of(talking_clip)
    assert np.array_equal(tower.vector("A DOG").vector, tower.vector("a dog").vector)


def test_different_texts_have_different_vectors(talking_clip: Path) -> None:
    tower = tower_of(talking_clip)
    assert tower.vector("a dog").vector @ tower.vector("a cat").vector < 0.9999


def test_a_long_text_is_cut_at_77_tokens_and_ends_as_every_text_does(talking_clip: Path) -> None:
    tower = tower_of(talking_clip)
    found, of_start = tower.vector("dog " * 200), tower.vector("dog " * 75)
    assert (found.is_cut, of_start.is_cut) == (True, False)
    assert np.array_equal(found.vector, of_start.vector)


def test_a_vision_tower_alone_has_no_texts_but_images(tmp_path: Path) -> None:
    folder = save_vision_tower(tmp_path / "vision", vision=TINY_VISION, projection_dim=16)
    encoder = QueryEncoder(find_model(str(folder), revision=""))
    with pytest.raises(ModelError, match=r"holds the vision tower of .* alone.*--model"):
        encoder.text_vector("a dog")
    assert encoder.image_vector(np.zeros((32, 32, 3), np.uint8)).shape == (16,)


def test_a_folder_of_a_vision_tower_may_hold_the_text_tower_too(talking_clip: Path, tmp_path: Path) -> None:
    whole = find_model(str(talking_clip), revision="")
    save_folder(whole, tmp_path / "alone")
    save_folder(whole, tmp_path / "both", with_text=True)
    vector = tower_of(tmp_path / "both").vector("a dog").vector
    assert np.array_equal(vector, tower_of(talking_clip).vector("a dog").vector)
    weights = {find_model(str(tmp_path / name), revision="").weights for name in ("alone", "both")}
    assert len(weights) == 1, "the text tower does not change which vectors images have"


def test_a_text_tower_of_another_model_beside_a_vision_tower_is_not_used(talking_clip: Path, tmp_path: Path) -> None:
    save_folder(find_model(str(talking_clip), revision=""), tmp_path / "both", with_text=True)
    (tmp_path / "both" / "text" / "origin.json").write_text('{"model": "another"}', "utf-8")
    with pytest.raises(ModelError, match="holds the vision tower of"):
        tower_of(tmp_path / "both")


def test_a_model_without_a_tokenizer_says_which_files_it_lacks(talking_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(talking_clip, tmp_path / "model")
    (folder / "vocab.json").unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer \(vocab\.json and merges\.txt, or tokenizer\.json\)"):
        tower_of(folder)


def test_a_damaged_tokenizer_is_no_crash(talking_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(talking_clip, tmp_path / "model")
    (folder / "vocab.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match="its tokenizer cannot be read"):
        tower_of(folder)


def test_tokenizer_files_do_not_change_the_identity_of_a_model(talking_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(talking_clip, tmp_path / "model")
    (folder / "vocab.json").unlink()
    assert find_model(str(folder), revision="").weights == find_model(str(talking_clip), revision="").weights


@pytest.mark.slow
def test_the_untrained_model_has_a_tower_of_bytes() -> None:
    tower = load_text_tower(find_model(UNTRAINED, revision=""))
    found = tower.vector("x" * 1000)
    assert found.is_cut
    assert found.vector.shape == (512,)
    again = load_text_tower(find_model(UNTRAINED, revision=""))
    assert np.array_equal(again.vector("hällo").vector, tower.vector("hällo").vector)
