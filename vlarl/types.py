"""Data contracts between the parts: shape, dtype and meaning of every field. numpy only.

Letters: N turns, M trajectories, K action tokens of a turn (action_dim x action_horizon), H image side in pixels,
P proprioception entries.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "evaluation"]


@dataclass(frozen=True, kw_only=True, order=True)
class Start:
    """One start state of one task. The three splits are disjoint; figures come from `evaluation` only."""

    task_id: int
    split: Split
    index: int


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One trajectory to collect. All its sampling noise follows from (seed, trajectory_index)."""

    trajectory_index: int
    start: Start
    seed: int


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A batch of what the policy sees. Example: images[3] belongs to instructions[3]."""

    images: np.ndarray
    """[N, H, H, 3] uint8, RGB, upright."""
    proprio: np.ndarray
    """[N, P] float32, raw units (metres, radians); the policy standardises."""
    instructions: tuple[str, ...]
    """N task instructions."""

    def __len__(self) -> int:
        return len(self.images)

    def select(self, index: np.ndarray) -> "Observation":
        """Returns the rows `index` [n] as a new batch."""
        return Observation(
            images=self.images[index],
            proprio=self.proprio[index],
            instructions=tuple(self.instructions[int(i)] for i in index),
        )


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a generator returns for a batch of B observations."""

    action_tokens: np.ndarray
    """[B, K] int64, ids in the decoder's vocabulary."""
    logprobs: np.ndarray
    """[B, K] float32, log-probabilities under the sampling distribution (the generator's own numbers)."""
    entropy: np.ndarray
    """[B, K] float32, nats, of the sampling distribution."""
    actions: np.ndarray
    """[B, action_horizon, action_dim] float32, in the environment's units."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Whole trajectories of one iteration, packed and sorted by trajectory_index.

    Turn rows of trajectory m are trajectory_offsets[m]:trajectory_offsets[m + 1].
    """

    observations: Observation
    """N turns: what was seen before each decision."""
    final_observations: Observation
    """M: what was seen after the last executed step of each trajectory."""
    action_tokens: np.ndarray
    """[N, K] int64."""
    generator_logprobs: np.ndarray
    """[N, K] float32, under the policy version that acted."""
    generator_entropy: np.ndarray
    """[N, K] float32, nats."""
    executed_actions: np.ndarray
    """[N, replan_steps, action_dim] float32; rows at and after executed_steps[n] were not executed."""
    executed_steps: np.ndarray
    """[N] int64, env steps executed in the turn (1..replan_steps)."""
    env_rewards: np.ndarray
    """[N] float32, the environment's reward summed over the executed steps."""
    trajectory_offsets: np.ndarray
    """[M + 1] int64."""
    terminated: np.ndarray
    """[M] bool, the task ended (success); no bootstrap."""
    truncated: np.ndarray
    """[M] bool, the step limit was hit; GAE bootstraps from the value of the final observation."""
    success: np.ndarray
    """[M] bool."""
    items: tuple[WorkItem, ...]
    """M work items."""
    policy_version: int

    @property
    def num_turns(self) -> int:
        """N."""
        return len(self.action_tokens)

    @property
    def num_trajectories(self) -> int:
        """M."""
        return len(self.items)

    def actions_of(self, trajectory: int) -> np.ndarray:
        """[T, action_dim] float32, the actions of a trajectory that were executed."""
        turns = slice(*self.trajectory_offsets[trajectory : trajectory + 2])
        executed = np.arange(self.executed_actions.shape[1])[None, :] < self.executed_steps[turns, None]
        return self.executed_actions[turns][executed]

    @property
    def elapsed_steps(self) -> np.ndarray:
        """[N] int64 env steps of the trajectory before each turn."""
        before = np.cumsum(self.executed_steps) - self.executed_steps
        starts = self.trajectory_offsets[:-1]
        return before - np.repeat(before[starts], np.diff(self.trajectory_offsets))

    @property
    def episode_steps(self) -> np.ndarray:
        """[M] int64 env steps of each trajectory."""
        return np.add.reduceat(self.executed_steps, self.trajectory_offsets[:-1])


@dataclass(frozen=True, kw_only=True)
class EpisodeTrace:
    """How a failed episode went, one row per env step: of the first part of the goal that was not met at its end."""

    distance: np.ndarray
    """[T] metres from the grip site to the nearest solid part of what is to be moved (an object, a drawer, a knob)."""
    height: np.ndarray
    """[T] metres of an object above where it was at the start; 0 for what turns or slides."""
    closing: np.ndarray
    """[T] bool, whether the action commands the gripper to close."""
    is_carried: bool
    """Whether the goal asks for an object at a place; otherwise for a joint's position."""


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """Outcome of one evaluation episode."""

    start: Start
    success: bool
    steps: int
    """Env steps."""
