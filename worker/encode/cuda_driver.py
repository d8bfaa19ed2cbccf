"""Whether this machine has an NVIDIA GPU that this PyTorch can use.

The driver is asked first, by its own library. PyTorch says only that no GPU is available, whatever the reason is.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_char_p, c_int
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from common.errors import DeviceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

Version = tuple[int, int]

OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
"""Oldest version of the driver for each major version of CUDA, with which all its minor versions work. From NVIDIA's
document "CUDA Compatibility"."""

_NO_DEVICE, _STUB_LIBRARY = 100, 34
"""The driver's errors on a machine without a GPU: no device; and no driver, but a library to compile against."""

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""Numbers of the attributes of a device, as in cuda.h."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    name: str
    capability: Version
    """Its compute capability, such as (9, 0)."""


@dataclass(frozen=True, kw_only=True)
class CudaFacts:
    """What driver, GPUs and PyTorch are."""

    torch_version: str
    built_for: Version | None
    """Version of CUDA that PyTorch is built for, None for a build without CUDA."""
    architectures: tuple[str, ...] = ()
    """What PyTorch's kernels are compiled for, such as `sm_90`. Empty if it does not say."""
    driver: Version | None = None
    """Newest version of CUDA that the driver supports, None without a driver."""
    failure: str = ""
    """Why the driver does not work, in its own words. Empty if it works, or if it finds no GPU."""
    gpus: tuple[Gpu, ...] = ()
    """The GPUs that this process may use, in CUDA's order."""
    device_file: str = ""
    """The device file of a GPU, if this process has one."""
    is_hidden: bool = False
    """Whether CUDA_VISIBLE_DEVICES hides all GPUs."""


def usable_gpu(facts: CudaFacts) -> Gpu | None:
    """Return the GPU that a worker uses, the first one, or None if this process was given no GPU.

    Raises DeviceUnavailable if there is a GPU that cannot be used. To compute on the CPU instead would waste the node.
    """
    if facts.built_for is None:
        return None
    if facts.driver is None:
        if facts.device_file:
            raise DeviceUnavailable(
                f"{facts.device_file} is here, but not the driver's library libcuda.so.1; let the container runtime "
                "mount it (NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
            )
        return None
    if facts.failure:
        raise DeviceUnavailable(f"the NVIDIA driver does not work: {facts.failure}; look at the node")
    if not facts.gpus:
        if facts.device_file and not facts.is_hidden:
            raise DeviceUnavailable(
                f"{facts.device_file} is here, but the NVIDIA driver finds no GPU; look whether the GPU has failed, "
                "whether it is divided (MIG) and no part of it was given to this pod, or what CUDA_VISIBLE_DEVICES says"
            )
        return None
    if facts.driver[0] < facts.built_for[0]:
        raise DeviceUnavailable(
            f"the NVIDIA driver is too old: it supports CUDA {_dotted(facts.driver)}, and PyTorch "
            f"{facts.torch_version} is built for CUDA {_dotted(facts.built_for)}, which needs "
            f"{_driver_for(facts.built_for)}; update the node's driver, or build the image with a PyTorch for CUDA "
            f"{facts.driver[0]}"
        )
    gpu = facts.gpus[0]
    if facts.architectures and not any(_runs_on(gpu.capability, each) for each in facts.architectures):
        raise DeviceUnavailable(
            f"PyTorch {facts.torch_version} does not support cuda:0 ({gpu.name}): it has compute capability "
            f"{_dotted(gpu.capability)}, and this build has kernels for {' '.join(facts.architectures)}; choose nodes "
            "with other GPUs, or build the image with another PyTorch"
        )
    return gpu


def why_none(facts: CudaFacts) -> str:
    """Return why `usable_gpu` found no GPU, as the main clause of a sentence."""
    if facts.built_for is None:
        return f"PyTorch {facts.torch_version} is built without CUDA; install a build with CUDA"
    found = "CUDA_VISIBLE_DEVICES hides all GPUs" if facts.is_hidden else "no CUDA device is visible"
    return f"{found}; does the pod ask for a GPU?"


def read_cuda_facts() -> CudaFacts:
    """Ask driver and PyTorch. Does not make a CUDA context."""
    built_for = _version(torch.version.cuda)
    device_file = next((str(path) for path in sorted(Path("/dev").glob("nvidia[0-9]*"))), "")
    driver, failure, gpus = _ask_driver()
    # PyTorch warns if it is asked while the driver does not fit.
    is_ready = bool(gpus) and not failure and built_for is not None and driver is not None and driver[0] >= built_for[0]
    return CudaFacts(
        torch_version=torch.__version__,
        built_for=built_for,
        architectures=tuple(torch.cuda.get_arch_list()) if is_ready else (),
        driver=driver,
        failure=failure,
        gpus=gpus,
        device_file=device_file,
        is_hidden=os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() in {"", "-1"},
    )


def _ask_driver() -> tuple[Version | None, str, tuple[Gpu, ...]]:
    """Return the CUDA version of the driver (None without a driver), why it fails (empty if it works), and its GPUs."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, "", ()
    driver: Version | None = None
    try:
        version = _number(cuda, cuda.cuDriverGetVersion)
        driver = (version // 1000, version % 1000 // 10)
        _check(cuda, cuda.cuInit(0))
        return driver, "", tuple(_gpu(cuda, index) for index in range(_number(cuda, cuda.cuDeviceGetCount)))
    except _DriverError as error:
        if error.code == _STUB_LIBRARY:
            return None, "", ()
        return driver or (0, 0), "" if error.code == _NO_DEVICE else str(error), ()


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device = _number(cuda, cuda.cuDeviceGet, index)
    name = ctypes.create_string_buffer(256)
    _check(cuda, cuda.cuDeviceGetName(name, len(name), device))
    major = _number(cuda, cuda.cuDeviceGetAttribute, _CAPABILITY_MAJOR, device)
    minor = _number(cuda, cuda.cuDeviceGetAttribute, _CAPABILITY_MINOR, device)
    return Gpu(name=name.value.decode(errors="replace"), capability=(major, minor))


class _DriverError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


def _number(cuda: ctypes.CDLL, function: Callable[..., int], *arguments: int) -> int:
    """Return the number that a function of the driver writes to its first argument."""
    number = c_int()
    _check(cuda, function(byref(number), *arguments))
    return number.value


def _check(cuda: ctypes.CDLL, code: int) -> None:
    if code:
        text = c_char_p()
        cuda.cuGetErrorString(code, byref(text))
        raise _DriverError(code, (text.value or b"unknown error").decode(errors="replace"))


def _runs_on(capability: Version, architecture: str) -> bool:
    """Tell whether kernels for `architecture` run on a GPU of this compute capability.

    Machine code (`sm_86`) runs on GPUs of the same major version, and of the same or a later minor version; with an `a`
    (`sm_90a`) only on its own version. Code that the driver compiles (`compute_90`) runs on all later GPUs.
    """
    kind, _, number = architecture.partition("_")
    version = _version(f"{number.rstrip('af')[:-1]}.{number.rstrip('af')[-1:]}")
    if version is None:
        return False
    if number.endswith("a"):
        return version == capability
    if kind == "compute":
        return version <= capability
    return version[0] == capability[0] and version <= capability


def _version(text: str | None) -> Version | None:
    try:
        major, minor = (int(part) for part in (text or "").split(".")[:2])
    except ValueError:
        return None
    return major, minor


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)


def _driver_for(cuda: Version) -> str:
    oldest = OLDEST_DRIVERS.get(cuda[0])
    return f"driver {oldest} or newer" if oldest else "a newer one"
