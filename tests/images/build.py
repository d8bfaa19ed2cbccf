"""Builds both images with buildah from a base that debootstrap makes, so that no image registry is needed.

The slow parts are kept in build/images: the base, its PyTorch and buildah's layers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.format.provenance import program_version
from tests.worker.encode.models import TINY_VISION, save_vision_tower

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "images"
SWITCH = "EMBEDDER_IMAGE_TEST"

RELEASE, PYTHON = "bookworm", "3.11"
"""The release of Debian, and its version of Python."""

PINS = (ROOT / "constraints.txt").read_text().splitlines()
TORCH = next(pin for pin in PINS if pin.startswith("torch=="))
PLAIN_BASE = f"localhost/embedder-base:{RELEASE}"
TORCH_BASE = f"localhost/embedder-base:{RELEASE}-{TORCH.replace('==', '-')}"
MODEL = "/srv/tiny-clip"
"""Folder of a small model in the base with PyTorch. The worker's image is built with it as WEIGHTS."""

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BUILDAH = [
    *("buildah", "--root", str(FOLDER / "storage"), "--runroot", str(FOLDER / "run")),
    *("--storage-driver", "overlay"),
]


def reason_to_skip() -> str:
    """Return why the images cannot be built and run on this machine; "" if they can."""
    if not os.environ.get(SWITCH):
        return "building images takes minutes; `make image-test` builds them"
    if os.geteuid() != 0:
        return "these tests build and run images as root"
    missing = [program for program in ("buildah", "debootstrap", "runc") if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


class Image(NamedTuple):
    name: str
    root: Path
    """The folder at which its files are mounted."""
    config: dict[str, Any]
    """The config of the OCI image specification: Env, Entrypoint, User, Labels."""


def build(kind: str, *, base: str, **arguments: str) -> str:
    """Build the image of `kind` (gpu or merge) with `make image-<kind>` and return its name."""
    _run(
        *("make", f"image-{kind}", f"ENGINE={' '.join(BUILDAH)}", f"BASE_IMAGE={base}"),
        # Mounted during the build only, since this machine's pip settings may contain a password.
        f"BUILD_OPTIONS=--layers --volume {_pip_settings()}:/etc/pip.conf:ro --volume {CERTIFICATES}:{CERTIFICATES}:ro",
        *(f"{name}={value}" for name, value in arguments.items()),
    )
    return f"localhost/embedder-{kind}:{program_version()}"


@contextmanager
def mounted(name: str) -> Iterator[Image]:
    """Mount the files of the image until the block ends."""
    config = json.loads(_buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
    container = _buildah("from", "--pull-never", name)
    try:
        yield Image(name, Path(_buildah("mount", container)), config)
    finally:
        _buildah("rm", container)


@contextmanager
def bases() -> Iterator[None]:
    """Make the two bases if they do not exist: Debian with its Python, and the same with PyTorch and a small model.

    At the end of the block everything is unmounted, so that `make clean` can remove the folder.
    """
    try:
        if not _is_there(PLAIN_BASE):
            _commit(PLAIN_BASE, "scratch", {_debian(): "/"})
        if not _is_there(TORCH_BASE):
            packages = f"/usr/local/lib/python{PYTHON}/dist-packages"
            # The exit status is ignored: some files are for newer versions of Python and do not compile.
            compiling = f"python3 -m compileall -qq --invalidation-mode unchecked-hash {packages} || true"
            _commit(TORCH_BASE, PLAIN_BASE, {_torch(): packages, _model(): MODEL}, then=compiling)
        yield
    finally:
        _buildah("rm", "--all")


def _debian() -> Path:
    folder = FOLDER / RELEASE
    if not folder.exists():
        part = _empty("debian.part")
        packages = "ca-certificates,python3,python3-pip,python3-venv"
        _run("debootstrap", "--variant=minbase", f"--include={packages}", RELEASE, str(part))
        for unneeded in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(part / unneeded)
        part.rename(folder)
    return folder


def _torch() -> Path:
    folder = FOLDER / TORCH
    if not folder.exists():
        part = _empty("torch.part")
        # The CPU build has a twentieth of the size. PyTorch's own index offers it, unless pip's settings name another.
        _run(
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:"),
            *(f"--python-version={PYTHON}", f"--target={part}", f"{TORCH}+cpu"),
        )
        part.rename(folder)
    return folder


def _model() -> Path:
    return save_vision_tower(_empty("model"), vision=TINY_VISION, projection_dim=512)


def _commit(name: str, base: str, folders: dict[Path, str], *, then: str = "true") -> None:
    container = _buildah("from", base)
    try:
        for source, target in folders.items():
            _buildah("add", container, str(source), target)
        _buildah("run", container, "--", "sh", "-c", then)
        _buildah("commit", container, name)
    finally:
        _buildah("rm", container)


def _is_there(name: str) -> bool:
    command = [*BUILDAH, "inspect", "--type", "image", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _pip_settings() -> Path:
    names = ("index_url", "extra_index_url", "trusted_host", "proxy")
    values = {name: os.environ.get(f"PIP_{name.upper()}") for name in names} | {"cert": CERTIFICATES}
    path = FOLDER / "pip.conf"
    path.touch(mode=0o600)
    path.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items() if value))
    return path


def _empty(name: str) -> Path:
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _buildah(*arguments: str) -> str:
    return _run(*BUILDAH, *arguments).strip()


def _run(*command: str) -> str:
    """Return what the command prints. Raises RuntimeError with the end of its output if it fails."""
    # Isolation by chroot also works inside containers and virtual machines.
    environment = dict(os.environ) | {"BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout
