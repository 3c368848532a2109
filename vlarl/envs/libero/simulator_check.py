"""Is this machine's simulator the one that figures were measured with? Compares it with a committed table.

The table holds for every task where things lie after evaluation starts have settled, and what the cameras then show on
average over the cells of a grid; `scripts/simulator_table.py` makes it. `vlarl doctor` runs `main` in a process of its
own, because another MuJoCo may crash instead of differing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.rendering import Renderer, gl_renderer  # isort: skip

from vlarl.configs.env import RenderProfile
from vlarl.envs.base import SIMULATOR_PACKAGES
from vlarl.envs.libero.cache import TaskFiles, cache_entries, current_recipe
from vlarl.envs.libero.recording import CAMERAS
from vlarl.envs.libero.simulation import NO_MOTION, Scene, Simulation
from vlarl.envs.libero.tasks import SETTLE_STEPS, load_task

TABLE = Path(__file__).with_name("simulator_table.json")
STARTS = (0, 25)
"""LIBERO's fixed initial states that are settled; frames are of the first."""
IMAGE_SIZE = 256
"""Pixels."""
GRID = 4
"""Cells along each side of a frame."""
POSITION_TOLERANCE = 1e-4
"""Difference in qpos that another processor may make after settling, metres or radians."""
COLOUR_TOLERANCE = 3
"""Difference in a cell's mean colour that another renderer's rasterisation may make, of 255."""
DEFAULT_TASKS = 10
"""Built tasks that are compared when none are named: about half a second each."""
KNOWN_CHANGES: Mapping[str, str] = {
    "3.3.3": "from 3.3.3 LIBERO-Object renders darker floors",
    "3.4.0": "from 3.4.0 libero_spatial task 5 no longer settles",
}
"""MuJoCo version -> what it changed in LIBERO."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a task settles to. Lists, because it is written as JSON."""

    fixtures: list[list[float]]
    """[F, 3] positions of the fixtures, as upstream's first reset draws them, metres."""
    qpos: list[list[float]]
    """[len(STARTS), nq] after settling, metres and radians."""
    colours: dict[str, list[list[int]]]
    """Render profile -> [cameras, GRID * GRID * 3] mean colours of the cells, 0 to 255, row by row from the top."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What simulates and draws."""

    packages: dict[str, str]
    """Distribution -> version."""
    renderer: str
    """OpenGL's name of the renderer."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A task that does not settle or look as in the table."""

    task: str
    """SUITE:TASK_ID."""
    settles: bool
    """Whether positions agree."""
    looks: bool
    """Whether frames agree."""
    detail: str
    """By how much."""


def this_machine() -> Machine:
    """Versions of the simulator's packages, and the renderer of this process."""
    return Machine(packages={name: metadata.version(name) for name in SIMULATOR_PACKAGES}, renderer=gl_renderer())


def built_tasks() -> list[str]:
    """Tasks of the cache that have a row in the table, as SUITE:TASK_ID."""
    rows = load_table()["tasks"]
    names = [e.name.rpartition("_") for e in cache_entries() if e.recipe == current_recipe()]
    keys = [f"{suite}:{task_id}" for suite, _, task_id in names if TaskFiles.of(suite, int(task_id)).is_loadable()]
    return [key for key in keys if key in rows]


@cache
def load_table() -> dict[str, Any]:
    """The table: "machine" that made it, and "tasks", SUITE:TASK_ID -> a Fingerprint's fields."""
    return json.loads(TABLE.read_text())


def measure(suite: str, task_id: int, profiles: Sequence[RenderProfile]) -> Fingerprint:
    """Settles the starts and draws the first, with models from the cache.

    Args:
        suite: of the task.
        task_id: its models are built for all of `profiles`.
        profiles: to draw with.
    """
    simulations = [settle(suite, task_id, number, profiles[0]) for number in STARTS]
    first = {profiles[0]: simulations[0]} | {name: settle(suite, task_id, STARTS[0], name) for name in profiles[1:]}
    scene = simulations[0].scene
    return Fingerprint(
        fixtures=scene.model.body_pos[scene.fixture_bodies].round(6).tolist(),
        qpos=[simulation.data.qpos.round(6).tolist() for simulation in simulations],
        colours={name: [_mean_colours(frame) for frame in frames(one, name)] for name, one in first.items()},
    )


def settle(suite: str, task_id: int, init_state_id: int, profile: RenderProfile) -> Simulation:
    """Rests from one of LIBERO's fixed initial states as the evaluation protocol does, exactly; the task is built."""
    files = TaskFiles.of(suite, task_id)
    simulation = Simulation(files, Scene(files, profile), "exact")
    states = np.load(load_task(suite, task_id).init_states_file, allow_pickle=False)["states"]
    simulation.set_state(states[init_state_id])
    for _ in range(SETTLE_STEPS):
        simulation.step(NO_MOTION)
    return simulation


def frames(simulation: Simulation, profile: RenderProfile, size: int = IMAGE_SIZE) -> list[np.ndarray]:
    """What upstream's two cameras show of a scene of this profile, [size, size, 3] uint8 each."""
    renderer = Renderer(simulation.model, simulation.scene.lamps, profile)
    return [renderer.render(simulation.observed, size, camera, simulation.lamp_qpos) for camera in CAMERAS]


def _mean_colours(frame: np.ndarray) -> list[int]:
    side = len(frame) // GRID
    return frame.reshape(GRID, side, GRID, side, 3).mean(axis=(1, 3)).round().astype(int).flatten().tolist()


def compare(task: str, expected: Fingerprint, found: Fingerprint) -> Difference | None:
    """Returns how a task differs from its row; profiles that `found` lacks are left out."""
    pairs = {"fixtures": (expected.fixtures, found.fixtures), "settled positions": (expected.qpos, found.qpos)}
    notes = []
    for name, (one, two) in pairs.items():
        distance = _distance(one, two)
        if not distance <= POSITION_TOLERANCE:
            notes.append(f"{name} differ by up to {distance:.2g}")
    settles = not notes
    for profile, colours in found.colours.items():
        distance = _distance(expected.colours[profile], colours)
        if not distance <= COLOUR_TOLERANCE:
            notes.append(f"{profile} frames differ by up to {distance:.0f} of 255")
    if not notes:
        return None
    looks = all("frames" not in note for note in notes)
    return Difference(task=task, settles=settles, looks=looks, detail="; ".join(notes))


def _distance(one: list[list[float]], two: list[list[float]]) -> float:
    """Largest difference; infinite where the shapes differ or numbers are missing."""
    first, second = np.array(one, dtype=float), np.array(two, dtype=float)
    if first.shape != second.shape:
        return float("inf")
    return float(np.abs(first - second).max(initial=0.0))


def find_causes(differences: Sequence[Difference], table: Machine, machine: Machine) -> list[str]:
    """Returns what may have made the differences, as far as it is known, likeliest first."""
    causes = [
        f"{name} {machine.packages[name]} is installed, the table was made with {version}"
        for name, version in table.packages.items()
        if machine.packages[name] != version
    ]
    if machine.packages["mujoco"] != table.packages["mujoco"]:
        version = _numbers(machine.packages["mujoco"])
        causes += [text for since, text in KNOWN_CHANGES.items() if version >= _numbers(since)]
    if machine.renderer != table.renderer and not all(difference.looks for difference in differences):
        causes.append(f"frames are drawn by {machine.renderer}, those of the table by {table.renderer}")
    return causes


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def check(task: str) -> Difference | None:
    """Compares a built task with its row of the table, in all profiles that are built."""
    suite, _, task_id = task.partition(":")
    has_reference = TaskFiles.of(suite, int(task_id)).reference.is_file()
    found = measure(suite, int(task_id), ("fast", "reference") if has_reference else ("fast",))
    return compare(task, Fingerprint(**load_table()["tasks"][task]), found)


def main(tasks: Sequence[str]) -> None:
    """Compares tasks SUITE:TASK_ID, by default up to DEFAULT_TASKS of the built ones.

    Prints a JSON object per task before it is compared, {"task"}, and at the end one with "differences" (as
    `Difference`), "causes" and "table" (as `Machine`).
    """
    differences = []
    for task in tasks or _spread(built_tasks()):
        print(json.dumps({"task": task}), flush=True)
        difference = check(task)
        if difference is not None:
            differences.append(difference)
    table = Machine(**load_table()["machine"])
    causes = find_causes(differences, table, this_machine()) if differences else []
    print(json.dumps({"differences": [asdict(d) for d in differences], "causes": causes, "table": asdict(table)}))


def _spread(tasks: Sequence[str]) -> list[str]:
    """At most DEFAULT_TASKS of them, evenly."""
    count = min(len(tasks), DEFAULT_TASKS)
    return [tasks[index * len(tasks) // count] for index in range(count)]
