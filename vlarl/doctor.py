"""Is this machine fit for a run, and what to do where it is not."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from vlarl.envs.render_devices import describe_devices, find_gpus
from vlarl.errors import (
    EXIT_MISSING_SYSTEM_LIBRARY,
    EXIT_USER_ERROR,
    MissingSystemLibraryError,
    UserError,
    check_names,
)
from vlarl.system import (
    APT_INSTALL_LINE,
    CARD_PACKAGES,
    cpu_cores,
    cpu_model,
    find_rendering,
    format_gib,
    memory_bytes,
    package_version,
    run_python,
)

PYTHON_VERSIONS = ((3, 11), (3, 13))
"""Oldest and newest tested Python."""

MUJOCO_VERSIONS = ("3.3.2", "3.3.1", "3.3.0")
"""MuJoCo versions whose figures are comparable, the tested one first."""

REQUIRED_MEMORY_BYTES = 6 * 2**30
"""What a run may need over all processes."""

REQUIRED_DISK_BYTES = 2**30
"""What a run and the simulator's cache may need."""

_SIMULATOR_CHECK = "import sys; from vlarl.envs.libero.simulator_check import main; main(sys.argv[1:])"
_REBUILD = (
    "`vlarl cache --clear all` deletes the built tasks; if built anew they still differ, report it with this line"
)
"""Fix of a task that differs for no known reason."""

SIMULATOR_START_SECONDS, SIMULATOR_TASK_SECONDS = 120.0, 20.0
"""What the comparison with the recorded table may take before it is given up: at all, and per task."""


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


def run_simulator_check(suites: Sequence[str] = ()) -> Check:
    """Compares what tasks settle to and look like with the recorded table (`vlarl.envs.libero.simulator_check`).

    Args:
        suites: all tasks of these, built where that is missing; without suites some of those that the cache holds.
    """
    tasks = _build_suites(suites)
    output, reason = run_python(
        _SIMULATOR_CHECK,
        {"MUJOCO_GL": find_rendering().backend},
        arguments=tasks,
        timeout_seconds=SIMULATOR_START_SECONDS + SIMULATOR_TASK_SECONDS * len(tasks),
    )
    lines = [json.loads(line) for line in output.splitlines()]
    if reason is not None:
        last = lines[-1]["task"] if lines else "nothing"
        return _failed("simulator", f"{last} could not be compared with the recorded table: {reason}", _REBUILD)
    *compared, result = lines
    if not compared:
        return Check(name="simulator", ok=True, detail="not compared with the recorded table: no task is built yet")
    recorded = f"as recorded with MuJoCo {result['table']['packages']['mujoco']} and {result['table']['renderer']}"
    if not result["differences"]:
        return Check(name="simulator", ok=True, detail=f"{len(compared)} built tasks settle and look {recorded}")
    named = "; ".join(f"{difference['task']}: {difference['detail']}" for difference in result["differences"])
    return _failed(
        "simulator",
        f"{len(result['differences'])} of {len(compared)} built tasks do not settle or look {recorded}. {named}. Cause:"
        f" {'; '.join(result['causes']) or 'unknown'}",
        "install the versions of constraints.txt" if result["causes"] else _REBUILD,
    )


def _build_suites(suites: Sequence[str]) -> list[str]:
    """Builds what is missing; returns the tasks as SUITE:TASK_ID."""
    if not suites:
        return []
    # Only on demand: it loads the simulator.
    from vlarl.configs.env import EnvConfig
    from vlarl.envs.libero.env import prepare
    from vlarl.envs.libero.simulator_check import load_table
    from vlarl.envs.libero.tasks import num_tasks

    recorded = {task.partition(":")[0] for task in load_table()["tasks"]}
    check_names("recorded suite", suites, sorted(recorded))
    for suite in suites:
        config = EnvConfig(task_suite=suite, task_ids=tuple(range(num_tasks(suite))))
        prepare(config, lambda line: print(line, file=sys.stderr, flush=True))
    tasks = [f"{suite}:{task_id}" for suite in suites for task_id in range(num_tasks(suite))]
    return [task for task in tasks if task in load_table()["tasks"]]


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
    spread = describe_devices(find_gpus(), os.environ | {"MUJOCO_GL": rendering.backend}, cpu_cores())
    return Check(name="rendering", ok=True, detail=f"{rendering.backend}, {rendering.renderer}; {spread}")


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
