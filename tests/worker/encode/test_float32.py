"""float32 means float32, whatever the environment or another library says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMPUTE = """
import sys, warnings
warnings.simplefilter("error")
import torch
from worker.encode.float32 import compute_float32_exactly

if "bfloat16" in sys.argv:
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
if "medium" in sys.argv:
    torch.set_float32_matmul_precision("medium")
if "exactly" in sys.argv:
    compute_float32_exactly()
torch.manual_seed(1)
one, other = torch.randn(256, 768), torch.randn(768, 512)
error = ((one @ other).double() - one.double() @ other.double()).abs().max().item()
precisions = {
    each.fp32_precision
    for each in (
        torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv,
    )
}
print(error < 1e-3, torch.backends.cuda.matmul.allow_tf32, *sorted(precisions))
"""


def compute(*arguments: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", COMPUTE, *arguments],
        cwd=Path(__file__).parents[3],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return run.stdout.strip() if run.returncode == 0 else run.stderr


@pytest.mark.parametrize(("planted", "override"), [("", "0"), ("", "1"), ("bfloat16", "1"), ("medium", "0")])
def test_nothing_computes_float32_in_a_shorter_type(planted: str, override: str) -> None:
    environment = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": override, "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}
    assert compute(planted, **environment) != "True False ieee"  # else the test would show nothing
    assert compute(planted, "exactly", **environment) == "True False ieee"
