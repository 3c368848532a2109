"""Many LIBERO environments in worker processes for any program that speaks Gymnasium's vector interface."""

import logging
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

# Before anything that loads mujoco: it chooses the GL library.
from vlarl.envs.libero.rendering import CAMERA  # isort: skip

import gymnasium
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import EnvObservation, Transition
from vlarl.envs.libero.env import ACTION_DIM, prepare
from vlarl.envs.libero.gymnasium_env import (
    check_actions,
    check_choices,
    check_init_state,
    count_clipped,
    draw_start,
    make_spaces,
)
from vlarl.envs.vector import VectorEnv
from vlarl.errors import UserError, check_names
from vlarl.types import Start

_log = logging.getLogger(__name__)


class LiberoVectorEnv(gymnasium.vector.VectorEnv[dict[str, Any], np.ndarray, np.ndarray]):
    """`num_envs` slots for the tasks of a suite, simulated by `vlarl.envs.vector.VectorEnv`'s worker processes.

    Observations, actions, rewards and infos are those of `LiberoEnv` with the agent's camera, in batches: images
    [num_envs, H, H, 3], "proprio" [num_envs, 12], "instruction" a tuple of str. With the same seeds and actions the
    results are the same bits as those of `gymnasium.vector.SyncVectorEnv` over `LiberoEnv`.

    An episode that ended stays ended (autoreset is disabled): reset its slot by mask before the next step. A worker
    that dies is replaced and its episodes are replayed, unnoticed but for `restarted_episodes`.

    Args:
        task_suite: for example "libero_spatial".
        num_envs: slots.
        task_id: task of the suite, or tasks that slots can be reset to; slot s begins with task_id[s % len(task_id)].
        profile: "reference" for upstream's images, "fast" for light models without shadows.
        stepping: "exact" for upstream's bits, "fast" for one solve instead of three, of what moves.
        image_size: side of the images, pixels.
        replan_steps: env steps per call of `step`; above 1 the actions are [num_envs, replan_steps, 7].
        num_workers: processes; None takes one per processor, at most one per slot.
        render_gpus: GPUs that draw, round-robin over the workers; None takes all.
        render_mode: "rgb_array" for `render`, or None.

    Raises:
        UserError: an argument that names something unknown, or a task cannot be built.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's attribute
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        task_suite: str,
        num_envs: int = 1,
        task_id: int | Sequence[int] = 0,
        *,
        profile: Literal["reference", "fast"] = "reference",
        stepping: Literal["exact", "fast"] = "exact",
        image_size: int = 256,
        replan_steps: int = 1,
        num_workers: int | None = None,
        render_gpus: tuple[int, ...] | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_choices(profile, stepping, render_mode)
        config = EnvConfig(
            task_suite=task_suite,
            task_ids=(task_id,) if isinstance(task_id, int) else tuple(task_id),
            image_size=image_size,
            num_envs=num_envs,
            num_workers=min(num_envs, os.cpu_count() or 1) if num_workers is None else num_workers,
            replan_steps=replan_steps,
            stepping=stepping,
            render_profile=profile,
            render_gpus=render_gpus,
        )
        prepare(config, _log.warning)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.task_suite, self.task_ids = task_suite, config.task_ids
        self.single_observation_space, self.single_action_space = make_spaces((CAMERA,), image_size, replan_steps)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._tasks = [config.task_ids[slot % len(config.task_ids)] for slot in range(num_envs)]
        self._rngs = [np_random(None)[0] for _ in range(num_envs)]
        self._seen: list[EnvObservation | None] = [None] * num_envs
        self._is_running = np.zeros(num_envs, dtype=bool)
        self._clipped = np.zeros(num_envs, dtype=int)
        self._slots = VectorEnv(config)

    @property
    def restarted_episodes(self) -> int:
        """Episodes that were replayed because their worker had died or hung."""
        return self._slots.restarted_episodes

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins episodes; the objects are settled.

        Args:
            seed: of the starts that a slot draws from here on: seed + slot, or one per slot.
            options: "reset_mask" [num_envs] bool, the slots to reset, by default all; "task_id" and "init_state_id",
                each one number or [num_envs] numbers, of which those of the mask count. Without "task_id" a slot keeps
                its task; without "init_state_id" (LIBERO's fixed initial states) it draws a training start.

        Returns:
            Observations of all slots, those outside the mask as before; infos of the slots that were reset.

        Raises:
            UserError: an unknown option, a mask, task or initial state that does not fit, or a slot left out that has
                never been reset.
        """
        options = options or {}
        check_names("reset option", options, ["reset_mask", "task_id", "init_state_id"])
        mask = self._check_mask(options.get("reset_mask"))
        slots = [int(slot) for slot in np.flatnonzero(mask)]
        tasks = dict.fromkeys(slots) | self._choose(options, "task_id", slots)
        initial_states = self._choose(options, "init_state_id", slots)
        for slot, task in tasks.items():
            tasks[slot] = self._tasks[slot] if task is None else self._check_task(task)
        fixed = {
            slot: Start(task_id=tasks[slot], split="evaluation", index=check_init_state(value))
            for slot, value in initial_states.items()
        }
        self._seed(seed, slots)
        starts = {s: fixed[s] if s in fixed else draw_start(self._rngs[s], tasks[s]) for s in slots}
        self._slots.reset(starts)
        infos: dict[str, Any] = {}
        for slot, observation in zip(slots, self._slots.receive(slots), strict=True):
            start = starts[slot]
            self._tasks[slot], self._seen[slot] = start.task_id, observation
            self._is_running[slot], self._clipped[slot] = True, 0
            first = {"split": start.split, "start_index": start.index}
            infos = self._add_info(infos, first | self._info(slot, False, 0), slot)
        return self._observations(), infos

    def step(self, actions: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Executes an action, or a chunk of them, in every slot.

        Args:
            actions: of `action_space`.

        Returns:
            Observations, rewards [num_envs] float64, terminations and truncations [num_envs] bool, infos.

        Raises:
            UserError: a slot has no running episode, or actions of the wrong shape or not finite.
        """
        if not self._is_running.all():
            raise UserError(
                f"step while slots {np.flatnonzero(~self._is_running).tolist()} have no running episode: reset them"
                ' first, after an end by options={"reset_mask": terminations | truncations}'
            )
        checked = check_actions(actions, self.action_space.shape).reshape(self.num_envs, -1, ACTION_DIM)
        self._slots.step(dict(enumerate(np.clip(checked, -1.0, 1.0))))
        results: list[Transition] = self._slots.receive(range(self.num_envs))
        infos: dict[str, Any] = {}
        for slot, result in enumerate(results):
            self._seen[slot] = result.observation
            self._clipped[slot] += count_clipped(checked[slot, : result.executed_steps])
            self._is_running[slot] = not (result.terminated or result.truncated)
            infos = self._add_info(infos, self._info(slot, result.success, result.executed_steps), slot)
        rewards = np.array([result.reward for result in results], dtype=np.float64)
        terminations = np.array([result.terminated for result in results])
        truncations = np.array([result.truncated for result in results])
        return self._observations(), rewards, terminations, truncations, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns what each slot saw last, [H, H, 3] uint8 RGB, or None without a render mode."""
        return tuple(self._observations()[CAMERA]) if self.render_mode else None

    def close_extras(self, **_: object) -> None:
        """Ends the workers."""
        self._slots.close()

    def _observations(self) -> dict[str, Any]:
        return {
            CAMERA: np.stack([seen.image for seen in self._seen]),
            "proprio": np.stack([seen.proprio for seen in self._seen]),
            "instruction": tuple(seen.instruction for seen in self._seen),
        }

    def _info(self, slot: int, success: bool, executed: int) -> dict[str, Any]:
        return {"success": success, "executed_steps": executed, "clipped_actions": int(self._clipped[slot])}

    def _seed(self, seed: int | Sequence[int | None] | None, slots: Sequence[int]) -> None:
        """Seeds the slots that are reset."""
        if seed is None:
            return
        seeds = [seed + slot for slot in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        if len(seeds) != self.num_envs:
            raise UserError(f"{len(seeds)} seeds for {self.num_envs} slots: give one, or one per slot")
        for slot in slots:
            if seeds[slot] is not None:
                self._rngs[slot] = np_random(seeds[slot])[0]

    def _check_mask(self, mask: np.ndarray | None) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise UserError(
                f"reset_mask is {mask!r}: it takes a bool array [{self.num_envs}] with at least one slot to reset"
            )
        fresh = [slot for slot, seen in enumerate(self._seen) if seen is None and not mask[slot]]
        if fresh:
            raise UserError(f"reset_mask leaves out slots {fresh}, which were never reset: reset them too")
        return mask

    def _choose(self, options: Mapping[str, Any], name: str, slots: Sequence[int]) -> dict[int, Any]:
        """The values of an option by slot: one number for all, or one per slot."""
        if name not in options:
            return {}
        values = np.asarray(options[name])
        if values.shape not in ((), (self.num_envs,)):
            raise UserError(f"{name} has shape {values.shape}: it takes one number, or [{self.num_envs}]")
        values = np.broadcast_to(values, self.num_envs)
        return {slot: values[slot] for slot in slots}

    def _check_task(self, value: object) -> int:
        try:
            task = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            task = None
        if task not in self.task_ids:
            raise UserError(f"task_id {value!r} is none of this environment's tasks: {list(self.task_ids)}")
        return task
