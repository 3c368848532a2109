"""Any Gymnasium environment with an image and an instruction, as `EnvConfig(name="gymnasium", task_suite=...)`.

The suite is named "module:NAME": a sequence of `GymnasiumTask`, whose positions are the task ids. The workers import
the module too, so it must be importable, not part of a script. See docs/environments.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import EnvObservation, EnvSpec, Progress, Transition
from vlarl.errors import UserError, unknown_name
from vlarl.types import Split, Start

NUM_STARTS: dict[Split, int] = {"train": 200, "validation": 50, "evaluation": 50}


@dataclass(frozen=True, kw_only=True)
class GymnasiumTask:
    """One task: how its environment is made, and where the policy's inputs are in what it returns."""

    make: Callable[[], gymnasium.Env]
    """Makes the environment. Its `reset(seed=s)` has to give the same episode start whenever it gets the same s."""
    instruction: str
    max_episode_steps: int
    """Env steps; the environment's own truncation ends an episode too."""
    action_dim: int
    """Entries of the action, a bounded Box; [-1, 1] is mapped to its bounds."""
    proprio_entries: tuple[int, ...]
    """What the policy gets of the proprioception array, flattened."""
    image_key: str | None = None
    """Entry of a dictionary observation, [H, W, 3] uint8 RGB, upright; None takes `render()`, once per turn."""
    proprio_key: str | None = None
    """Entry of a dictionary observation; None takes the whole observation, an array."""
    success_key: str = "success"
    """Entry of `info` that is true at success; success ends the episode with reward 1."""
    needs_rendering: bool = True
    """False if frames do not come from OpenGL."""


class GymnasiumEnvironment:
    """One slot: an environment per task, made at the task's first episode."""

    def __init__(self, config: EnvConfig, tasks: Sequence[GymnasiumTask]) -> None:
        self._config = config
        self._tasks = tasks
        self._made: dict[int, gymnasium.Env] = {}

    def reset(self, start: Start) -> EnvObservation:
        """Resets the environment of the start's task with the start's seed."""
        self._task = self._tasks[start.task_id]
        if start.task_id not in self._made:
            self._made[start.task_id] = _make(self._task)
        self._env = self._made[start.task_id]
        self._raw, _ = self._env.reset(seed=start_seed(self._config, start))
        training_limit = self._config.max_episode_steps if start.split == "train" else None
        self._limit = training_limit or self._task.max_episode_steps
        self._steps = 0
        return self._observe()

    def step(self, actions: np.ndarray) -> Transition:
        """Executes the rows of actions [n, A] in [-1, 1] (clipped) until n are done or the episode ends."""
        box = self._env.action_space
        success = terminated = truncated = False
        executed = 0
        for action in actions:
            share = (np.clip(action, -1.0, 1.0) + 1.0) / 2.0
            scaled = (box.low + share.reshape(box.shape) * (box.high - box.low)).astype(box.dtype)
            self._raw, _, terminated, truncated, info = self._env.step(scaled)
            executed += 1
            self._steps += 1
            success = bool(_entry("info", info, self._task.success_key))
            truncated = truncated or self._steps >= self._limit
            if success or terminated or truncated:
                break
        ended = success or bool(terminated)
        return Transition(
            observation=self._observe(),
            reward=float(success),
            terminated=ended,
            truncated=bool(truncated) and not ended,
            success=success,
            executed_steps=executed,
        )

    def draw(self, size: int) -> np.ndarray:
        """Returns what the policy's camera sees, [size, size, 3] uint8 RGB: the middle square, resized."""
        key = self._task.image_key
        frame = self._env.render() if key is None else _entry("observation", self._raw, key)
        if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            source = "render() (render_mode='rgb_array'?)" if key is None else f"observation[{key!r}]"
            raise UserError(f"{self._task.instruction!r}: {source} gives no [H, W, 3] uint8 image, but {_shape(frame)}")
        side = min(frame.shape[:2])
        top, left = ((length - side) // 2 for length in frame.shape[:2])
        square = np.ascontiguousarray(frame[top : top + side, left : left + side])
        return (
            square if side == size else np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BOX))
        )

    def _observe(self) -> EnvObservation:
        key = self._task.proprio_key
        proprio = np.asarray(self._raw if key is None else _entry("observation", self._raw, key))
        try:
            entries = proprio.reshape(-1)[list(self._task.proprio_entries)].astype(np.float32)
        except (IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._task.instruction!r}: proprio_entries {self._task.proprio_entries} cannot be taken from"
                f" {_shape(proprio)} ({error})"
            ) from error
        image = self.draw(self._config.image_size)
        return EnvObservation(image=image, proprio=entries, instruction=self._task.instruction)


def start_seed(config: EnvConfig, start: Start) -> int:
    """The seed of a start's reset: a function of its fields and, except in the evaluation split, of config.seed."""
    seed = 0 if start.split == "evaluation" else config.seed % 2**64
    split = list(NUM_STARTS).index(start.split)
    return int(np.random.SeedSequence([seed, start.task_id, split, start.index]).generate_state(1)[0])


def load_tasks(task_suite: str) -> Sequence[GymnasiumTask]:
    """Imports a suite.

    Args:
        task_suite: "module:NAME" of a sequence of GymnasiumTask.

    Raises:
        UserError: it is not written so, or does not exist.
    """
    module_name, _, name = task_suite.partition(":")
    if not module_name or not name:
        raise UserError(f"task_suite {task_suite!r} of the gymnasium environment is not of the form 'module:NAME'")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(f"task_suite {task_suite!r} cannot be imported: {error}") from error
    if name not in vars(module):
        raise unknown_name(f"suite in {module_name}", name, [n for n in vars(module) if not n.startswith("_")])
    return vars(module)[name]


def prepare(config: EnvConfig, progress: Progress) -> None:
    """There is nothing to build."""


def make_spec(config: EnvConfig) -> EnvSpec:
    """Reads the tasks; makes no environment.

    Raises:
        UserError: an unknown suite or task, or tasks whose sizes differ.
    """
    suite = load_tasks(config.task_suite)
    for task_id in config.task_ids:
        if not 0 <= task_id < len(suite):
            raise UserError(f"{config.task_suite} has no task {task_id}; it has 0 to {len(suite) - 1}")
    tasks = {task_id: suite[task_id] for task_id in config.task_ids}
    sizes = {(task.action_dim, len(task.proprio_entries)) for task in tasks.values()}
    if len(sizes) > 1:
        raise UserError(f"the tasks {list(tasks)} of {config.task_suite} differ in (action_dim, proprio): {sizes}")
    action_dim, proprio_dim = sizes.pop()
    return EnvSpec(
        action_dim=action_dim,
        proprio_dim=proprio_dim,
        instructions={task_id: task.instruction for task_id, task in tasks.items()},
        max_episode_steps={task_id: task.max_episode_steps for task_id, task in tasks.items()},
        num_starts=NUM_STARTS,
        needs_rendering=any(task.needs_rendering for task in tasks.values()),
    )


def make_environments(config: EnvConfig, num_slots: int) -> list[GymnasiumEnvironment]:
    """Makes `num_slots` environments.

    Raises:
        UserError: an unknown suite or task.
    """
    make_spec(config)
    tasks = load_tasks(config.task_suite)
    return [GymnasiumEnvironment(config, tasks) for _ in range(num_slots)]


def replay_frames(config: EnvConfig, start: Start, actions: np.ndarray, size: int = 256, every: int = 1) -> np.ndarray:
    """Plays an episode again; returns frames [F, size, size, 3] uint8: the start, every `every` steps, the last."""
    environment = make_environments(config, 1)[0]
    environment.reset(start)
    frames = [environment.draw(size)]
    for position in range(0, len(actions), every):
        environment.step(actions[position : position + every])
        frames.append(environment.draw(size))
    return np.stack(frames)


def _make(task: GymnasiumTask) -> gymnasium.Env:
    env = task.make()
    space = env.action_space
    if (
        not isinstance(space, gymnasium.spaces.Box)
        or not space.is_bounded()
        or int(np.prod(space.shape)) != task.action_dim
    ):
        raise UserError(
            f"{task.instruction!r}: the action space is {space}, a bounded Box of {task.action_dim} entries is needed"
        )
    return env


def _entry(what: str, values: Any, key: str) -> Any:  # noqa: ANN401 - what the environment holds there
    if key not in values:
        raise unknown_name(f"entry of the {what}", key, values)
    return values[key]


def _shape(value: object) -> str:
    return f"shape {value.shape} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
