"""Which GPU a worker uses, and what it says about a machine whose GPU it cannot use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
import torch

from common.errors import DeviceUnavailable
from worker.encode.cuda_driver import CudaFacts, Gpu
from worker.encode.encoder import choose_device

if TYPE_CHECKING:
    from collections.abc import Mapping

L4 = Gpu(name="NVIDIA L4", capability=(8, 9))
V100 = Gpu(name="Tesla V100-SXM2-16GB", capability=(7, 0))
SOUND = CudaFacts(
    torch_version="2.13.0+cu130",
    built_for=(13, 0),
    architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
    driver=(13, 0),
    gpus=(L4,),
    device_file="/dev/nvidia0",
)
CPU_BUILD = CudaFacts(torch_version="2.13.0+cpu", built_for=None, device_file="/dev/nvidia0")
NO_DRIVER = CudaFacts(torch_version="2.13.0+cu130", built_for=(13, 0))


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize("driver", [(13, 0), (13, 2), (14, 1)])
def test_a_gpu_with_a_driver_that_is_new_enough_is_used(name: str, driver: tuple[int, int]) -> None:
    with structlog.testing.capture_logs() as logs:
        assert choose_device(name, replace(SOUND, driver=driver)) == torch.device("cuda", 0)
    assert not logs


def test_all_versions_of_one_cuda_work_with_its_oldest_driver() -> None:
    assert choose_device("cuda", replace(SOUND, built_for=(12, 8), driver=(12, 0))) == torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"driver": (12, 4)},
            (
                "the NVIDIA driver is too old: it supports CUDA 12.4, and PyTorch 2.13.0+cu130 is built for CUDA 13.0, "
                "which needs driver 580 or newer"
            ),
        ),
        (
            {"gpus": (V100,)},
            (
                "PyTorch 2.13.0+cu130 does not support cuda:0 (Tesla V100-SXM2-16GB): it has compute capability 7.0, "
                "and this build has kernels for sm_75 sm_80"
            ),
        ),
        (
            {"gpus": (), "failure": "system not yet initialized (802)"},
            "the NVIDIA driver does not work: system not yet initialized (802)",
        ),
        ({"gpus": ()}, "/dev/nvidia0 is here, but the NVIDIA driver finds no GPU"),
        ({"gpus": (), "driver": None}, "/dev/nvidia0 is here, but not the driver's library libcuda.so.1"),
    ],
)
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_that_cannot_be_used_is_not_replaced_by_the_cpu(
    name: str, changes: Mapping[str, object], said: str
) -> None:
    with pytest.raises(DeviceUnavailable) as raised:
        choose_device(name, replace(SOUND, **changes))  # type: ignore[arg-type]
    assert str(raised.value).startswith(said)
    assert choose_device("cpu", replace(SOUND, **changes)) == torch.device("cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (CPU_BUILD, "EMBEDDER_DEVICE is cuda, but PyTorch 2.13.0+cpu is built without CUDA"),
        (NO_DRIVER, "EMBEDDER_DEVICE is cuda, but no CUDA device is visible; does the pod ask for a GPU?"),
        (replace(NO_DRIVER, driver=(13, 0)), "EMBEDDER_DEVICE is cuda, but no CUDA device is visible"),
        (replace(NO_DRIVER, driver=(11, 4)), "EMBEDDER_DEVICE is cuda, but no CUDA device is visible"),
        (replace(SOUND, gpus=(), is_hidden=True), "EMBEDDER_DEVICE is cuda, but CUDA_VISIBLE_DEVICES hides all GPUs"),
    ],
)
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_unavailable(facts: CudaFacts, said: str) -> None:
    assert choose_device("auto", facts) == torch.device("cpu")
    with pytest.raises(DeviceUnavailable) as raised:
        choose_device("cuda", facts)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("count", "said"), [(2, "1 more GPU is visible and stays"), (4, "3 more GPUs are visible and stay")]
)
def test_a_worker_says_that_it_leaves_other_gpus_idle(count: int, said: str) -> None:
    with structlog.testing.capture_logs() as logs:
        choose_device("auto", replace(SOUND, gpus=(L4,) * count))
    (line,) = logs
    assert line["message"] == f"this worker uses cuda:0 (NVIDIA L4); {said} idle; give each pod one GPU"


@pytest.mark.parametrize(
    ("architectures", "capability", "is_supported"),
    [
        ("sm_75 sm_80", (7, 5), True),
        ("sm_75 sm_80", (8, 9), True),
        ("sm_75 sm_86", (8, 0), False),
        ("sm_75 sm_80", (9, 0), False),
        ("sm_80 compute_80", (12, 0), True),
        ("sm_90a", (9, 0), True),
        ("sm_100a", (10, 3), False),
        ("sm_100f", (10, 3), True),
        ("sm_120", (12, 1), True),
        ("compute_120", (9, 0), False),
        ("", (3, 5), True),  # PyTorch does not say what it is built for
    ],
)
def test_kernels_run_on_their_own_generation_and_compiled_code_on_later_ones(
    architectures: str, capability: tuple[int, int], is_supported: bool
) -> None:
    gpu = Gpu(name="some GPU", capability=capability)
    facts = replace(SOUND, architectures=tuple(architectures.split()), gpus=(gpu,))
    if is_supported:
        assert choose_device("cuda", facts) == torch.device("cuda", 0)
    else:
        with pytest.raises(DeviceUnavailable, match="some GPU"):
            choose_device("cuda", facts)


DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name) { return getenv(name) ? atoi(getenv(name)) : 0; }

int cuDriverGetVersion(int *version) { *version = number("DOUBLE_VERSION"); return number("DOUBLE_STUB"); }
int cuInit(unsigned flags) { return flags ? 1 : number("DOUBLE_INIT"); }
int cuDeviceGetCount(int *count) { *count = number("DOUBLE_COUNT"); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 70 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) { return snprintf(name, length, "GPU %d", device) < 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
    return device < 70 ? 101 : number("DOUBLE_ATTRIBUTE");
}
int cuGetErrorString(int error, const char **text) {
    if (error == 999) { *text = NULL; return 1; }
    *text = "it does not work";
    return 0;
}
"""
"""A driver's library with the functions that are called, and what they return."""

ASK = """
from worker.encode.cuda_driver import read_cuda_facts
facts = read_cuda_facts()
print(facts.driver, repr(facts.failure), [(gpu.name, gpu.capability) for gpu in facts.gpus], facts.is_hidden)
"""


@pytest.fixture(scope="module")
def driver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a double of libcuda.so.1."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "driver.c"], check=True, timeout=60
    )
    return folder


def ask(folder: Path, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=Path(__file__).parents[3],
        env={"LD_LIBRARY_PATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("environment", "facts"),
    [
        ("DOUBLE_VERSION=13000 DOUBLE_COUNT=2", "(13, 0) '' [('GPU 70', (8, 9)), ('GPU 71', (8, 9))] False"),
        ("DOUBLE_VERSION=12040 CUDA_VISIBLE_DEVICES=-1", "(12, 4) '' [] True"),
        ("DOUBLE_VERSION=12040 CUDA_VISIBLE_DEVICES=", "(12, 4) '' [] True"),
        ("DOUBLE_VERSION=12040 DOUBLE_INIT=100 CUDA_VISIBLE_DEVICES=3,-1", "(12, 4) '' [] False"),
        ("DOUBLE_VERSION=13020 DOUBLE_INIT=802", "(13, 2) 'it does not work (802)' [] False"),
        ("DOUBLE_VERSION=13020 DOUBLE_INIT=999", "(13, 2) 'unknown error (999)' [] False"),
        ("DOUBLE_VERSION=13020 DOUBLE_COUNT=1 DOUBLE_ATTRIBUTE=719", "(13, 2) 'it does not work (719)' [] False"),
        ("DOUBLE_STUB=34", "None '' [] False"),
        ("DOUBLE_VERSION=13000 DOUBLE_INIT=34", "None '' [] False"),
    ],
)
def test_the_driver_says_what_it_supports_why_it_fails_and_which_gpus_there_are(
    environment: str, facts: str, driver_folder: Path
) -> None:
    assert ask(driver_folder, **dict(variable.split("=") for variable in environment.split())) == facts


def test_a_machine_without_a_driver_has_no_driver(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a driver")
    assert ask(tmp_path) == "None '' [] False"
