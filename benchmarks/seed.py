"""The seed's way, written again: download all images to disk, read all from disk, run the model, write the file.

Run as `python -m benchmarks.seed BUCKET KEYS MODEL RESULT`, where KEYS is a text file with a key in every line.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import h5py
import numpy as np
import torch
import transformers
from botocore.config import Config
from PIL import Image

from worker.encode.model import OPENAI_MEAN, OPENAI_STD

DOWNLOAD_THREADS = 100
TRANSFORM_THREADS = 50
BATCH_SIZE = 32


def transform(path: Path, size: int = 224) -> torch.Tensor:
    """Preprocess as CLIP does: resize the short side, crop the centre, scale, normalise."""
    image: Image.Image = Image.open(path)
    width, height = image.size
    short, long = size, int(size * max(width, height) / min(width, height))
    image = image.resize((short, long) if width <= height else (long, short), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    image = image.crop((left, top, left + size, top + size)).convert("RGB")
    # The same passes as torchvision's ToTensor and Normalize.
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.as_tensor(values).view(3, 1, 1) for values in (OPENAI_MEAN, OPENAI_STD))
    return pixels.clone().sub_(mean).div_(std)


def embed(bucket: str, keys: list[str], model_folder: str, result: Path) -> None:
    client = boto3.client("s3", config=Config(max_pool_connections=DOWNLOAD_THREADS))
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(len(keys))]
        with ThreadPoolExecutor(DOWNLOAD_THREADS) as threads:
            list(threads.map(lambda key, path: client.download_file(bucket, key, str(path)), keys, paths))
        with ThreadPoolExecutor(TRANSFORM_THREADS) as threads:
            pixels = torch.stack(list(threads.map(transform, paths)))
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(model_folder).eval()
    with torch.inference_mode():
        features = torch.cat([model(pixel_values=batch).image_embeds for batch in torch.split(pixels, BATCH_SIZE)])
    vectors = (features / features.norm(dim=-1, keepdim=True)).numpy()
    with h5py.File(result, "w") as file:
        file["urls"] = np.array([f"s3://{bucket}/{key}".encode() for key in keys])
        file["embeddings"] = vectors


if __name__ == "__main__":
    embed(sys.argv[1], Path(sys.argv[2]).read_text("utf-8").split(), sys.argv[3], Path(sys.argv[4]))
