"""The curriculum: which task each trajectory of an iteration gets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlarl.configs.curriculum import CurriculumConfig
from vlarl.types import Start, WorkItem

FAILURE_FLOOR = 0.1
"""Smallest weight of `failure_floored` (the authors' first version)."""


class TaskSampler:
    """Samples tasks by their estimated success; knows no randomness but (seed, iteration)."""

    def __init__(self, config: CurriculumConfig, task_ids: Sequence[int], num_starts: int, seed: int) -> None:
        """`num_starts` is the number of training starts per task."""
        self.task_ids = tuple(task_ids)
        self._config = config
        self._num_starts = num_starts
        self._seed = seed
        self._successes = np.zeros(len(self.task_ids))
        self._failures = np.zeros(len(self.task_ids))

    def work_list(self, iteration: int, num_trajectories: int, trajectories_per_start: int = 1) -> tuple[WorkItem, ...]:
        """Returns the iteration's trajectories: tasks by the current probabilities, starts uniformly.

        Each start is played `trajectories_per_start` times in a row, a divisor of `num_trajectories`.
        """
        num_starts = num_trajectories // trajectories_per_start
        rng = np.random.Generator(np.random.Philox(key=[self._seed, 2], counter=[0, iteration, 0, 0]))
        # Systematic sampling: each task gets its expected count, rounded up or down, in random order.
        points = (np.arange(num_starts) + rng.random()) / num_starts
        chosen = np.searchsorted(np.cumsum(self.probabilities()), points, side="right").clip(max=len(self.task_ids) - 1)
        rng.shuffle(chosen)
        starts = rng.integers(self._num_starts, size=num_starts)
        repeated = (np.repeat(values, trajectories_per_start) for values in (chosen, starts))
        return tuple(
            WorkItem(
                trajectory_index=iteration * num_trajectories + row,
                start=Start(task_id=self.task_ids[task], split="train", index=int(start)),
                seed=self._seed,
            )
            for row, (task, start) in enumerate(zip(*repeated, strict=True))
        )

    def success_estimates(self) -> np.ndarray:
        """[tasks] posterior mean of each task's success."""
        config = self._config
        successes = self._successes + config.prior_successes
        return successes / (successes + self._failures + config.prior_failures)

    def probabilities(self) -> np.ndarray:
        """[tasks] sampling probabilities, sum 1."""
        return compute_probabilities(self.success_estimates(), self._config)

    def update(self, task_ids: Sequence[int], success: np.ndarray) -> None:
        """Takes the outcomes of one iteration: task and success [M] bool of each trajectory."""
        tasks = np.asarray(task_ids)
        for row, task_id in enumerate(self.task_ids):
            chosen = tasks == task_id
            wins = int(np.sum(success[chosen]))
            self._successes[row] = self._config.memory * self._successes[row] + wins
            self._failures[row] = self._config.memory * self._failures[row] + int(chosen.sum()) - wins

    def state_dict(self) -> dict[str, Any]:
        """JSON-able counts per task."""
        return {"successes": self._successes.tolist(), "failures": self._failures.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        self._successes = np.array(state["successes"], dtype=float)
        self._failures = np.array(state["failures"], dtype=float)


def compute_probabilities(success: np.ndarray, config: CurriculumConfig) -> np.ndarray:
    """Sampling probabilities [tasks] for success estimates [tasks]."""
    count = len(success)
    if config.strategy == "frontier":
        # With every task at 0 or 1 there is no frontier: all alike instead of 0 / 0.
        weights = np.maximum(success * (1 - success), np.finfo(float).tiny)
        floor = config.min_share / count
        return floor + (1 - config.min_share) * weights / weights.sum()
    if config.strategy == "failure":
        failure = 1 - success + 1e-9
        # Relative to the largest, so that a small temperature does not underflow all of them.
        weights = (failure / failure.max()) ** (1 / config.temperature)
    elif config.strategy == "failure_floored":
        weights = np.maximum((1 - success) ** (1 / config.temperature), FAILURE_FLOOR)
    elif config.strategy == "paper":
        weights = np.exp((1 - success - (1 - success).max()) / config.temperature)
    else:
        weights = np.ones(count)
    return weights / weights.sum()
