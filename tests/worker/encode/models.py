"""CLIP models with seeded random weights, saved in folders like those of the hub."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors.torch import load_file

from worker.encode.model import OPENAI_MEAN, OPENAI_STD

if TYPE_CHECKING:
    from pathlib import Path

TINY_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "image_size": 32,
    "patch_size": 8,
}
TINY_TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 64,
    "max_position_embeddings": 8,
}
WIDE_VISION: dict[str, Any] = {"num_hidden_layers": 1}
"""One layer of ViT-B/32. Its matrices have the real sizes, because the CPU's kernels depend on the sizes."""

VIT_B_32: dict[str, Any] = {}
"""The vision tower of clip-vit-base-patch32 in its full size, which is the default of transformers."""


def save_clip(folder: Path, *, vision: dict[str, Any], projection_dim: int, seed: int = 1) -> Path:
    """Save a whole CLIP model with its text tower and its preprocessor's configuration. Return the folder."""
    torch.manual_seed(seed)
    config = transformers.CLIPConfig(
        vision_config=vision | {"projection_dim": projection_dim},
        text_config=TINY_TEXT | {"projection_dim": projection_dim},
        projection_dim=projection_dim,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    save_preprocessor(folder, mean=OPENAI_MEAN, std=OPENAI_STD)
    return folder


def save_vision_tower(folder: Path, *, vision: dict[str, Any], projection_dim: int, seed: int = 1) -> Path:
    """Save only a vision tower with its projection, without a preprocessor's configuration. Return the folder."""
    torch.manual_seed(seed)
    config = transformers.CLIPVisionConfig(**vision, projection_dim=projection_dim)
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def save_preprocessor(folder: Path, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    settings = {"image_mean": mean, "image_std": std, "image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), "utf-8")


def as_pickled_weights(folder: Path) -> Path:
    """Replace the folder's model.safetensors by a pytorch_model.bin with the same weights. Return the folder."""
    safe = folder / "model.safetensors"
    torch.save(load_file(safe), folder / "pytorch_model.bin")
    safe.unlink()
    return folder


def save_clip_with_tokenizer(folder: Path, *, vision: dict[str, Any], projection_dim: int, seed: int = 1) -> Path:
    """Save a whole CLIP model with a small tokenizer: the letters, and two words. Return the folder."""
    torch.manual_seed(seed)
    pieces = [*bytes_to_letters(), *(f"{letter}</w>" for letter in bytes_to_letters())]
    merges = [("d", "o"), ("do", "g</w>"), ("c", "a"), ("ca", "t</w>")]
    words = [*pieces, *(first + second for first, second in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    text = TINY_TEXT | {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 77,
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
        "projection_dim": projection_dim,
    }
    config = transformers.CLIPConfig(
        vision_config=vision | {"projection_dim": projection_dim}, text_config=text, projection_dim=projection_dim
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    save_preprocessor(folder, mean=OPENAI_MEAN, std=OPENAI_STD)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def bytes_to_letters() -> list[str]:
    """Return the 256 letters that stand for bytes in the vocabularies of byte-level tokenizers."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [number for number in range(256) if number not in shown]
    return [chr(number) for number in shown] + [chr(256 + position) for position, _ in enumerate(others)]
