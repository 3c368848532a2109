"""Is this machine fit for a run, and what to do where it is not."""

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from vlarl.errors import EXIT_MISSING_SYSTEM_LIBRARY, EXIT_USER_ERROR, MissingSystemLibraryError, UserError
from vlarl.system import (
    APT_INSTALL_LINE,
    CARD_PACKAGES,
    cpu_cores,
    cpu_model,
    find_rendering,
    format_gib,
    memory_bytes,
    package_version,
)

PYTHON_VERSIONS = ((3, 11), (3, 13))
"""Oldest and newest tested Python."""

MUJOCO_VERSIONS = ("3.3.2", "3.3.1", "3.3.0")
"""MuJoCo versions whose figures are comparable, the tested one first."""

REQUIRED_MEMORY_BYTES = 6 * 2**30
"""What a run may need over all processes."""

REQUIRED_DISK_BYTES = 2**30
"""What a run and the simulator's cache may need."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding of `vlarl doctor`."""

    name: str
    ok: bool
    detail: str
    """What was found."""
    fix: str = ""
    """What to do about it; empty when all is well."""
    exit_code: int = 0
    """0 when ok, else the command's exit code: 3 a system library is missing, 2 anything else."""


def run_checks() -> list[Check]:
    """Checks Python, packages, MuJoCo's version, rendering, memory and the disk of the working folder."""
    return [
        _check_python(),
        _check_packages(),
        _check_mujoco(),
        _check_rendering(),
        _check_cores(),
        _check_memory(),
        _check_disk(),
    ]


def run_libero_checks() -> Iterator[Check]:
    """Compares ours with upstream on one task per suite, about half a minute each."""
    # Only on demand: it loads the simulator.
    from vlarl.envs.libero.parity import SAMPLE

    for suite, task_id in SAMPLE.items():
        yield _check_task(suite, task_id)


def _check_task(suite: str, task_id: int) -> Check:
    from vlarl.envs.libero.parity import make_request, run_live

    name = f"{suite} task {task_id}"
    try:
        exact, fast = run_live(make_request(suite, task_id, steps=90, with_frames=True))
    except UserError as error:
        return _failed(name, str(error), "see the message")
    detail = (
        f"exact stepping differs from upstream by {exact.max_qpos:.0e} in qpos and {exact.max_qvel:.0e} in qvel over"
        f" {exact.steps} steps, {exact.differing_flags} flags and {exact.differing_pixels} pixels of {exact.frames}"
        f" frames differ; fast stepping by {fast.max_qpos_free:.0e} in free motion, {fast.max_qpos:.0e} in contact"
    )
    if exact.is_identical and fast.is_within_tolerance:
        return Check(name=name, ok=True, detail=detail)
    return _failed(name, detail, "install the versions of constraints.txt; if they are, report it with this line")


def _check_python() -> Check:
    (oldest, newest), found = PYTHON_VERSIONS, f"{platform.python_version()} on {platform.system()}"
    if sys.platform != "linux":
        return _failed("python", found, "run on Linux, or in WSL2 on Windows")
    if not oldest <= sys.version_info[:2] <= newest:
        return _failed("python", found, f"use Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}")
    return Check(name="python", ok=True, detail=found)


def _check_packages() -> Check:
    versions = {name: package_version(name) for name in CARD_PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return _failed("packages", f"not installed: {', '.join(missing)}", "install vlarl again")
    return Check(name="packages", ok=True, detail=", ".join(f"{k} {v}" for k, v in versions.items()))


def _check_mujoco() -> Check:
    version = package_version("mujoco")
    if version in MUJOCO_VERSIONS:
        return Check(name="mujoco", ok=True, detail=str(version))
    return _failed(
        "mujoco",
        f"{version}: figures are not comparable with those of {MUJOCO_VERSIONS[0]}. From 3.3.3 LIBERO-Object renders"
        " darker floors, from 3.4.0 libero_spatial task 5 no longer settles",
        f"pip install mujoco=={MUJOCO_VERSIONS[0]}",
    )


def _check_rendering() -> Check:
    try:
        rendering = find_rendering()
    except MissingSystemLibraryError as error:
        return _failed("rendering", str(error), APT_INSTALL_LINE, EXIT_MISSING_SYSTEM_LIBRARY)
    return Check(name="rendering", ok=True, detail=f"{rendering.backend}, {rendering.renderer}")


def _check_cores() -> Check:
    return Check(name="cores", ok=True, detail=f"{cpu_cores()} of {cpu_model()}")


def _check_memory() -> Check:
    memory = memory_bytes()
    detail = f"{format_gib(memory)}, {format_gib(psutil.virtual_memory().available)} available"
    if memory < REQUIRED_MEMORY_BYTES:
        return _failed(
            "memory", detail, f"a run may need {format_gib(REQUIRED_MEMORY_BYTES)}: fewer --env.num-workers help"
        )
    return Check(name="memory", ok=True, detail=detail)


def _check_disk() -> Check:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    detail = f"{format_gib(free)} free at {folder}"
    if free < REQUIRED_DISK_BYTES:
        return _failed(
            "disk", detail, f"a run may need {format_gib(REQUIRED_DISK_BYTES)}: free some, or use another disk"
        )
    return Check(name="disk", ok=True, detail=detail)


def _failed(name: str, detail: str, fix: str, exit_code: int = EXIT_USER_ERROR) -> Check:
    return Check(name=name, ok=False, detail=detail, fix=fix, exit_code=exit_code)
