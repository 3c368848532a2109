"""How far fast stepping ends from exact stepping, beside exact stepping from a state that differs by almost nothing.

    python benchmarks/libero_sensitivity.py libero_10:5 [libero_90:27 ...]

The actions of `benchmarks/libero_parity.py`: 60 in free motion, 60 that press the hand down. Before the press the arm's
joints are moved by 1e-12 to 1e-7 rad, the size of fast stepping's own difference by then. Where that ends as far away,
the scene multiplies any difference, and only a stepping with the same bits can stay near. One row per task, max |qpos|.
"""

import argparse
from dataclasses import replace

import numpy as np

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.rendering import Renderer  # noqa: F401 # isort: skip

from vlarl.configs.env import Stepping
from vlarl.envs.libero.cache import TaskFiles
from vlarl.envs.libero.parity import make_request
from vlarl.envs.libero.recording import Recording, record
from vlarl.envs.libero.simulation import Scene, Simulation

NUDGES = (1e-12, 1e-9, 1e-7)
"""Radians."""
PRESS = 60
"""Env step from which the hand is pressed down."""


def positions(recording: Recording, files: TaskFiles, scene: Scene, stepping: Stepping, nudge: float) -> np.ndarray:
    """[steps, nq] of the recorded actions, the arm moved by `nudge` before the press."""
    simulation, rows = Simulation(files, scene, stepping), []
    fixtures = (recording.fixture_positions, recording.fixture_quaternions)
    simulation.set_state(recording.state.copy(), fixtures, recording.warm_start)
    for step, action in enumerate(recording.actions):
        if step == PRESS:
            simulation.data.qpos[simulation.robot.qpos_index] += nudge
        simulation.step(action)
        rows.append(simulation.data.qpos.copy())
    return np.array(rows)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="SUITE:TASK")
    options = parser.parse_args()
    print(f"| task | fast, at the press | fast | {' | '.join(f'exact, {nudge:.0e} rad' for nudge in NUDGES)} |")
    print("|---" * (len(NUDGES) + 3) + "|")
    for name in options.tasks:
        suite, _, task_id = name.partition(":")
        files = TaskFiles.of(suite, int(task_id))
        request = make_request(suite, int(task_id), steps=2 * PRESS, with_frames=False)
        recording = record(replace(request, models=files.folder))
        scene = Scene(files)
        exact = positions(recording, files, scene, "exact", 0.0)
        fast = np.abs(positions(recording, files, scene, "fast", 0.0) - exact).max(axis=1)
        nudged = [np.abs(positions(recording, files, scene, "exact", nudge) - exact).max() for nudge in NUDGES]
        figures = (fast[PRESS - 1], fast.max(), *nudged)
        print(f"| {name} | {' | '.join(f'{figure:.1e}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main()
