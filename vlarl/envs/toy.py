"""The toy environment: move a dot to the goal that the instruction names. An image, no simulator, no rendering.

The red square is above the dot, the blue plate below, both to the same side, which changes from start to start: the
instruction tells up from down, the image left from right, and a policy without either fails half of the time.
"""

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import EnvObservation, EnvSpec, Progress, Transition
from vlarl.errors import UserError, unknown_name
from vlarl.types import Split, Start

SUITE = "toy"
INSTRUCTIONS = {0: "go to the red square", 1: "put it on the blue plate"}
"""Different in most words, as LIBERO's are: a tiny policy that starts from random weights hears that sooner."""
EPISODE_STEPS = 20
STEP_LENGTH = 0.2
"""Movement per env step and axis at action 1; the world is [-1, 1] x [-1, 1], x to the right, y down."""
GOAL_RADIUS = 0.45
"""Distance between the dot and the middle of a goal at which the dot has reached it."""
NUM_STARTS: dict[Split, int] = {"train": 1000, "validation": 100, "evaluation": 100}

_SPLIT_CODES: dict[Split, int] = {"train": 0, "validation": 1, "evaluation": 2}
_BACKGROUND = 30
_RED, _BLUE, _GREEN = (220, 30, 30), (30, 30, 220), (30, 220, 30)
_GOAL_SIZE, _DOT_SIZE = 0.25, 0.15
"""Half a side, or a radius."""
_GOAL_OFFSET, _JITTER = 0.6, 0.15


class ToyEnvironment:
    """One slot. The episode ends on either goal, but only the instruction's one is a success with reward 1."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        self._dot = np.zeros(2)
        self._goals = np.zeros((2, 2))
        self._task_id = 0
        self._steps = 0
        self._limit = EPISODE_STEPS

    def reset(self, start: Start) -> EnvObservation:
        """Puts the dot and the goals into `start`.

        Raises:
            UserError: a task, split or index that does not exist.
        """
        self._dot, self._goals = start_positions(self._config, start)
        self._task_id = start.task_id
        self._steps = 0
        training_limit = self._config.max_episode_steps if start.split == "train" else None
        self._limit = training_limit or EPISODE_STEPS
        return self._observe()

    def step(self, actions: np.ndarray) -> Transition:
        """Moves the dot by each row of actions [n, 2] in [-1, 1] (clipped) until the episode ends."""
        reached, executed = None, 0
        for action in actions:
            self._dot = np.clip(self._dot + STEP_LENGTH * np.clip(action.astype(np.float64), -1, 1), -1, 1)
            self._steps += 1
            executed += 1
            distances = np.linalg.norm(self._goals - self._dot, axis=1)
            if distances.min() <= GOAL_RADIUS:
                reached = int(distances.argmin())
            if reached is not None or self._steps >= self._limit:
                break
        success = reached == self._task_id
        return Transition(
            observation=self._observe(),
            reward=float(success),
            terminated=reached is not None,
            truncated=reached is None and self._steps >= self._limit,
            success=success,
            executed_steps=executed,
        )

    def draw(self, size: int) -> np.ndarray:
        """Returns the scene as [size, size, 3] uint8 RGB."""
        # Pixel middles in world coordinates.
        axis = (np.arange(size) + 0.5) * 2 / size - 1
        away = [np.abs(np.stack(np.meshgrid(axis - x, axis - y))) for x, y in (*self._goals, self._dot)]
        image = np.full((size, size, 3), _BACKGROUND, dtype=np.uint8)
        image[away[0].max(axis=0) <= _GOAL_SIZE] = _RED
        image[np.hypot(*away[1]) <= _GOAL_SIZE] = _BLUE
        image[away[2].max(axis=0) <= _DOT_SIZE] = _GREEN
        return image

    def _observe(self) -> EnvObservation:
        return EnvObservation(
            image=self.draw(self._config.image_size),
            proprio=self._dot.astype(np.float32),
            instruction=INSTRUCTIONS[self._task_id],
        )


def start_positions(config: EnvConfig, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """Draws a start: a function of its fields and, except in the evaluation split, of config.seed.

    Returns:
        The dot's position [2] and the middles of the red square and the blue plate [2, 2], float64.

    Raises:
        UserError: a task, split or index that does not exist.
    """
    _check_start(start)
    seed = 0 if start.split == "evaluation" else config.seed % 2**64
    generator = np.random.default_rng([seed, start.task_id, _SPLIT_CODES[start.split], start.index])
    dot = generator.uniform(-_JITTER, _JITTER, size=2)
    side = generator.choice([-1, 1])
    middles = _GOAL_OFFSET * np.array([[side, -1], [side, 1]])
    return dot, middles + generator.uniform(-_JITTER, _JITTER, size=(2, 2))


def prepare(config: EnvConfig, progress: Progress) -> None:
    """There is nothing to build."""


def make_spec(config: EnvConfig) -> EnvSpec:
    """Returns the spec of the configured tasks.

    Raises:
        UserError: an unknown suite or task.
    """
    if config.task_suite != SUITE:
        raise unknown_name("task suite", config.task_suite, [SUITE])
    for task_id in config.task_ids:
        if task_id not in INSTRUCTIONS:
            raise unknown_name("task of suite 'toy'", task_id, INSTRUCTIONS)
    return EnvSpec(
        action_dim=2,
        proprio_dim=2,
        instructions={task_id: INSTRUCTIONS[task_id] for task_id in config.task_ids},
        max_episode_steps=dict.fromkeys(config.task_ids, EPISODE_STEPS),
        num_starts=NUM_STARTS,
    )


def make_environments(config: EnvConfig, num_slots: int) -> list[ToyEnvironment]:
    """Makes `num_slots` environments.

    Raises:
        UserError: an unknown suite or task.
    """
    make_spec(config)
    return [ToyEnvironment(config) for _ in range(num_slots)]


def replay_frames(config: EnvConfig, start: Start, actions: np.ndarray, size: int = 256, every: int = 1) -> np.ndarray:
    """Plays an episode again and draws it.

    Args:
        config: of the environment.
        start: the episode's start.
        actions: [n, 2] float32, one row per env step.
        size: side of the frames, pixels.
        every: env steps between frames; the first and the last state are always drawn.

    Returns:
        [T, size, size, 3] uint8 RGB.
    """
    environment = ToyEnvironment(config)
    environment.reset(start)
    frames = [environment.draw(size)]
    for position in range(0, len(actions), every):
        environment.step(actions[position : position + every])
        frames.append(environment.draw(size))
    return np.stack(frames)


def _check_start(start: Start) -> None:
    if start.task_id not in INSTRUCTIONS:
        raise unknown_name("task of suite 'toy'", start.task_id, INSTRUCTIONS)
    if start.split not in NUM_STARTS:
        raise unknown_name("split", start.split, NUM_STARTS)
    if not 0 <= start.index < NUM_STARTS[start.split]:
        raise UserError(
            f"start index {start.index} of split {start.split!r} is not in 0 to {NUM_STARTS[start.split] - 1}"
        )
