"""Meta-World's single tasks for the Gymnasium adapter, `task_suite="vlarl.envs.metaworld:TASKS"`.

Yu et al. 2019, arXiv 1910.10897. Needs the extra `metaworld`. The policy sees a camera image, the hand's position and
the gripper's opening; Meta-World's other observations are the true state of objects and goal, and are left out.
"""

from functools import partial
from typing import Any

# Before anything that loads mujoco: it chooses the GL library.
import vlarl.envs.libero.rendering  # noqa: F401 # isort: skip

import gymnasium
import numpy as np

from vlarl.envs.gymnasium_adapter import GymnasiumTask
from vlarl.errors import UserError

CAMERA = "corner2"
IMAGE_SIZE = 128
INSTRUCTIONS: dict[str, str] = {
    "reach-v3": "reach the red ball",
    "push-v3": "push the puck to the goal",
    "pick-place-v3": "pick up the puck and place it at the goal",
    "door-open-v3": "open the door",
    "drawer-open-v3": "open the drawer",
    "drawer-close-v3": "close the drawer",
    "button-press-topdown-v3": "press the button from above",
    "peg-insert-side-v3": "insert the peg into the hole",
    "window-open-v3": "open the window",
    "window-close-v3": "close the window",
}
"""The ten tasks of MT10."""


class _SeededGoal(gymnasium.Wrapper):
    """Draws one of the benchmark's 50 goals from the seed of the reset. Upstream draws it before it takes the seed."""

    def __init__(self, env: gymnasium.Env, goals: list[Any]) -> None:
        super().__init__(env)
        self._goals = goals

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        goal = np.random.default_rng(seed).integers(len(self._goals))
        self.env.unwrapped.set_task(self._goals[goal])  # type: ignore[attr-defined]
        return self.env.reset(seed=seed, options=options)

    def render(self) -> np.ndarray:
        # The corner cameras hang upside down.
        return self.env.render()[::-1, ::-1]  # type: ignore[index]


def make(name: str) -> gymnasium.Env:
    """Makes a task of MT1 whose goals follow from the seed, with cheap frames.

    Raises:
        UserError: Meta-World is not installed.
    """
    try:
        import metaworld
    except ImportError as error:
        raise UserError(f"Meta-World is not installed ({error}): pip install 'vlarl[metaworld]'") from error
    benchmark = metaworld.MT1(name, seed=0)
    env = benchmark.train_classes[name](
        render_mode="rgb_array", camera_name=CAMERA, width=IMAGE_SIZE, height=IMAGE_SIZE
    )
    # Shadows and multisampling take nearly all of the time without a GPU.
    env.model.vis.quality.offsamples = 0
    env.model.light_castshadow[:] = 0
    return _SeededGoal(env, benchmark.train_tasks)


TASKS = tuple(
    GymnasiumTask(
        make=partial(make, name),
        instruction=instruction,
        # Meta-World's own limit.
        max_episode_steps=500,
        action_dim=4,
        proprio_entries=(0, 1, 2, 3),
    )
    for name, instruction in INSTRUCTIONS.items()
)
"""In the order of `INSTRUCTIONS`."""
