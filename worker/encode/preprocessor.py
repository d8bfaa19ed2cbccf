"""Whether a model's own preprocessing is OpenAI's, the only one that `worker.decode` computes."""

from __future__ import annotations

import json
from math import isclose
from typing import Any

from common.errors import ModelError

CLIP_PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")
"""Names, in the releases of transformers, of the class that has OpenAI's preprocessing unless it is told otherwise."""

BICUBIC = 3
"""Pillow's number of bicubic interpolation."""


def check_preprocessing(config: dict[str, Any], *, image_size: int, name: str) -> None:
    """Raise ModelError unless `config`, of an image processor of transformers, describes OpenAI's preprocessing.

    That is: resize the shorter side to `image_size` pixels with bicubic interpolation, cut out the middle, divide by
    255 and normalise. Mean and standard deviation may be any. An empty configuration is OpenAI's.

    What the configuration does not say is OpenAI's too, if the class of the processor is CLIP's. Its default of 224
    pixels is then not meant where the model takes another size, since the model would refuse such images.
    """
    steps = {
        "do_resize": True,
        "resample": BICUBIC,
        "size": {"shortest_edge": image_size},
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
    }
    given = {key: value for key, value in config.items() if value is not None}  # transformers reads null as absent
    kind = given.get("image_processor_type", given.get("feature_extractor_type", CLIP_PROCESSORS[0]))
    differing = [
        key
        for key, step in steps.items()
        if (not _is_same(given[key], step) if key in given else kind not in CLIP_PROCESSORS)
    ]
    if given.get("use_square_size"):  # an older way to say that both sides are resized
        differing.append("use_square_size")
    if differing:
        found, needed = (
            ", ".join(f"{key} {json.dumps(values.get(key))}" for key in differing) for values in (given, steps)
        )
        raise ModelError(
            f"{name} prepares its images in another way than OpenAI's CLIP: its {kind} has {found}, and this program "
            f"computes {needed}; choose a model with CLIP's preprocessing"
        )


def _is_same(value: object, step: object) -> bool:
    if isinstance(step, float):
        return isinstance(value, int | float) and isclose(value, step, rel_tol=1e-6)
    if isinstance(step, dict) and isinstance(value, int):  # one number, as in CLIP's first configurations
        return all(value == pixels for pixels in step.values())
    if isinstance(value, dict):
        return {key: pixels for key, pixels in value.items() if pixels is not None} == step
    return value == step
