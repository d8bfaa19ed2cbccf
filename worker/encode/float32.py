"""Makes torch compute float32 in float32."""

from __future__ import annotations

import os
from typing import Any

import torch


def compute_float32_exactly() -> None:
    """Let no library of this process compute in a shorter type than the model's. Call it before the first computation.

    On NVIDIA GPUs, convolutions in float32 are by default computed in TF32 (10 of 23 bits of the mantissa), and
    products of matrices too where the environment says so. On CPUs, the environment can make oneDNN compute in
    bfloat16. A GPU's partial sums of float16 and bfloat16 stay in float32.
    """
    # oneDNN reads them when it is first used.
    for prefix in ("ONEDNN", "DNNL"):
        os.environ[f"{prefix}_DEFAULT_FPMATH_MODE"] = "STRICT"
    # The older interface comes first. TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, which some containers set, changes both, and
    # torch refuses to say which one holds while they disagree.
    torch.set_float32_matmul_precision("highest")
    backends: Any = torch.backends  # torch does not declare its new interface
    backends.fp32_precision = "ieee"
    for operation in (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv):
        operation.fp32_precision = "ieee"
    backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
