"""LIBERO for any program that speaks Gymnasium; needs nothing of the project but its simulator."""

import logging
import operator
import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.rendering import CAMERA  # isort: skip

import gymnasium
import mujoco
from gymnasium import spaces

from vlarl.configs.env import EnvConfig
from vlarl.data.episodes import PROPRIO_DIM
from vlarl.envs.libero.env import ACTION_DIM, make_environments, prepare
from vlarl.envs.libero.starts import NUM_STARTS
from vlarl.errors import UserError, check_names
from vlarl.types import Start

PROFILES = ("reference", "fast")
STEPPINGS = ("exact", "fast")
MAX_INSTRUCTION_LENGTH = 512

_log = logging.getLogger(__name__)


class LiberoEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """One LIBERO task. The first use of a task builds its models, about 20 s, once per machine.

    The observation is a dictionary: per camera an image [H, H, 3] uint8 RGB, upright (LIBERO's own arrays and files
    hold the rows bottom-up); "proprio" [12] float32, see `vlarl.data.episodes.PROPRIO_DIM`; "instruction" str.
    The action is [7] float32 in [-1, 1]: translation 3, rotation 3, gripper (-1 opens). Reward 1.0 and `terminated`
    on success, `truncated` at the suite's step limit. `info` holds

        success: bool
        executed_steps: int, env steps of this call
        clipped_actions: int, actions of this episode that left [-1, 1] and were clipped
        split, start_index (reset only): which start it is

    A training loop that asks its policy once per turn sets `replan_steps`: `step` then takes a chunk of actions
    [replan_steps, 7], executes it until the episode ends, and renders once.

    Args:
        task_suite: for example "libero_spatial".
        task_id: task of the suite, from 0.
        profile: "reference" for upstream's images, "fast" for light models without shadows.
        stepping: "exact" for upstream's bits, "fast" for one solve instead of three, of what moves.
        cameras: names of cameras of the model, for example "agentview", "robot0_eye_in_hand".
        image_size: side of the images, pixels.
        replan_steps: env steps per call of `step`.
        render_mode: "rgb_array" for `render`, or None.

    Raises:
        UserError: an argument that names something unknown, or the task cannot be built.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - Gymnasium's attribute

    def __init__(
        self,
        task_suite: str,
        task_id: int = 0,
        *,
        profile: Literal["reference", "fast"] = "reference",
        stepping: Literal["exact", "fast"] = "exact",
        cameras: Sequence[str] = (CAMERA,),
        image_size: int = 256,
        replan_steps: int = 1,
        render_mode: str | None = None,
    ) -> None:
        check_choices(profile, stepping, render_mode)
        if not cameras:
            raise UserError("cameras is empty: name at least one, for example 'agentview'")
        config = EnvConfig(
            task_suite=task_suite,
            task_ids=(task_id,),
            image_size=image_size,
            replan_steps=replan_steps,
            stepping=stepping,
            render_profile=profile,
        )
        prepare(config, _log.warning)
        self.task_suite, self.task_id = task_suite, task_id
        self.render_mode = render_mode
        self._cameras, self._image_size = tuple(cameras), image_size
        self._slot = make_environments(config, 1)[0]
        # A task and its fixtures from the start on: set_state needs no reset before it.
        self._slot.begin(Start(task_id=task_id, split="evaluation", index=0))
        check_names("camera", cameras, [self.model.camera(i).name for i in range(self.model.ncam)])
        self._is_running = False
        self._clipped = 0
        self.observation_space, self.action_space = make_spaces(self._cameras, image_size, replan_steps)

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model; fixture poses in it are those of the current episode."""
        return self._slot.simulation.model

    @property
    def data(self) -> mujoco.MjData:
        """The simulation's state."""
        return self._slot.simulation.data

    @property
    def instruction(self) -> str:
        """What the robot is told."""
        return self._slot.task.instruction

    def success(self) -> bool:
        """Whether the task's goal holds in the last computed kinematics and contacts."""
        return self._slot.success()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode; the objects are settled.

        Args:
            seed: of the starts drawn from here on.
            options: {"init_state_id": i} takes LIBERO's fixed initial state i, as in evaluation; without it one of the
                training starts is drawn.

        Returns:
            Observation and info.

        Raises:
            UserError: an unknown option, or an init_state_id that does not exist.
        """
        super().reset(seed=seed)
        options = options or {}
        check_names("reset option", options, ["init_state_id"])
        if "init_state_id" in options:
            start = Start(task_id=self.task_id, split="evaluation", index=check_init_state(options["init_state_id"]))
        else:
            start = draw_start(self.np_random, self.task_id)
        self._slot.begin(start)
        self._is_running, self._clipped = True, 0
        return self.observe(), {"split": start.split, "start_index": start.index, **self._info(False, 0)}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Executes an action, or a chunk of them, and renders what is seen afterwards.

        Returns:
            Observation, reward, terminated, truncated, info.

        Raises:
            UserError: no episode is running, or the action has the wrong shape or is not finite.
        """
        if not self._is_running:
            raise UserError("step without a running episode: call reset first, and again after every end")
        actions = check_actions(action, self.action_space.shape).reshape(-1, ACTION_DIM)
        success, truncated, executed = self._slot.execute(np.clip(actions, -1.0, 1.0))
        self._clipped += count_clipped(actions[:executed])
        self._is_running = not (success or truncated)
        return self.observe(), float(success), success, truncated, self._info(success, executed)

    def observe(self) -> dict[str, Any]:
        """Renders every camera; the observation of the current state."""
        frames = {name: self._slot.render(self._image_size, name) for name in self._cameras}
        return {**frames, "proprio": self._slot.proprio(), "instruction": self.instruction}

    def render(self) -> np.ndarray | None:
        """Returns what the first camera sees now, [H, H, 3] uint8 RGB, or None without a render mode."""
        return self._slot.render(self._image_size, self._cameras[0]) if self.render_mode else None

    def get_state(self) -> np.ndarray:
        """[1 + nq + nv] float64: time, qpos and qvel, flattened as in LIBERO's files."""
        return self._slot.state()

    def set_state(self, state: np.ndarray, fixture_poses: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Begins an episode in `state`, unsettled, as upstream's `reset` followed by `set_init_state` does.

        Args:
            state: [1 + nq + nv], as `get_state` returns it. Controller and gripper are those after a reset, so an
                episode that goes on from here differs from the one that the state was taken from.
            fixture_poses: positions [F, 3] and quaternions [F, 4] of the fixtures; None keeps the current ones.

        Raises:
            UserError: the wrong shape, or values that are not finite.
        """
        state = np.asarray(state, dtype=np.float64)
        size = 1 + self.model.nq + self.model.nv
        if state.shape != (size,) or not np.isfinite(state).all():
            raise UserError(
                f"the state has shape {state.shape} and {np.isfinite(state).sum()} finite values, {self.task_suite}"
                f" task {self.task_id} takes ({size},), all finite"
            )
        self._slot.set_state(state, fixture_poses)
        self._is_running, self._clipped = True, 0

    def _info(self, success: bool, executed: int) -> dict[str, Any]:
        return {"success": success, "executed_steps": executed, "clipped_actions": self._clipped}


def check_choices(profile: str, stepping: str, render_mode: str | None) -> None:
    """Checks the arguments that take a few names.

    Raises:
        UserError: an unknown one, with the nearest.
    """
    check_names("render profile", [profile], PROFILES)
    check_names("stepping", [stepping], STEPPINGS)
    check_names("render mode", [render_mode], [None, "rgb_array"])


def make_spaces(cameras: Sequence[str], image_size: int, replan_steps: int) -> tuple[spaces.Dict, spaces.Box]:
    """Observation and action space of one environment."""
    images = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
    observations = spaces.Dict(
        {
            **dict.fromkeys(cameras, images),
            "proprio": spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32),
            "instruction": spaces.Text(MAX_INSTRUCTION_LENGTH, charset=string.printable),
        }
    )
    shape = (ACTION_DIM,) if replan_steps == 1 else (replan_steps, ACTION_DIM)
    return observations, spaces.Box(-1.0, 1.0, shape, np.float32)


def draw_start(rng: np.random.Generator, task_id: int) -> Start:
    """Draws one of a task's training starts."""
    return Start(task_id=task_id, split="train", index=int(rng.integers(NUM_STARTS["train"])))


def check_actions(actions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the actions as float64.

    Raises:
        UserError: another shape than `shape`, or values that are not finite.
    """
    actions = np.asarray(actions, dtype=np.float64)
    if actions.shape != shape:
        raise UserError(f"the action has shape {actions.shape}, this environment takes {shape}")
    if not np.isfinite(actions).all():
        raise UserError(f"the action is not finite: {actions.tolist()}")
    return actions


def count_clipped(actions: np.ndarray) -> int:
    """How many of the actions [n, 7] leave [-1, 1]."""
    return int((np.abs(actions) > 1.0).any(axis=1).sum())


def check_init_state(value: object) -> int:
    """Returns the number of one of LIBERO's fixed initial states.

    Raises:
        UserError: there is none of that number.
    """
    last = NUM_STARTS["evaluation"] - 1
    try:
        index = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        index = -1
    if not 0 <= index <= last:
        raise UserError(f"init_state_id {value!r} does not exist: take a whole number from 0 to {last}")
    return index
