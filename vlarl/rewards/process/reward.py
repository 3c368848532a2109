"""The process reward in RL: scores of a frozen reward model beside success."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vlarl.configs.reward import ProcessRewardConfig
from vlarl.configs.training import TrainConfig
from vlarl.envs.base import EnvSpec, compute_max_turns
from vlarl.errors import UserError
from vlarl.types import Observation, Rollout, WorkItem


class FrameScorer(Protocol):
    """Gives frames their probability of progress."""

    def score(self, images: np.ndarray, instructions: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """[n] float32 for images [n, H, H, 3] uint8 and n instructions."""
        ...


class ProcessReward:
    """Success, and what the frame after each turn is worth.

    Frames are handed over while the rollout is collected and scored in full batches; `score` scores the rest.

    Args:
        model: frozen.
        config: weight, mode and batch size.
        max_turns: turns of the longest episode: the probabilities of one sum up to no more.
        gamma: discount per turn.
        bootstrap_truncated: whether the value of what follows the step limit counts (`ppo.bootstrap_truncated`).
    """

    def __init__(
        self,
        model: FrameScorer,
        config: ProcessRewardConfig,
        *,
        max_turns: int,
        gamma: float,
        bootstrap_truncated: bool,
    ) -> None:
        self._model, self._config = model, config
        self._max_turns, self._gamma, self._bootstrap_truncated = max_turns, gamma, bootstrap_truncated
        self._waiting: list[tuple[int, np.ndarray, str]] = []
        self._scores: dict[int, list[float]] = {}

    def submit(self, items: Sequence[WorkItem], observations: Observation) -> None:
        """Takes the next observation of each item's trajectory, the final one included; scores full batches."""
        rows = zip(items, observations.images, observations.instructions, strict=True)
        self._waiting += [(item.trajectory_index, image, instruction) for item, image, instruction in rows]
        while len(self._waiting) >= self._config.batch_size:
            self._score_waiting(self._config.batch_size)

    def score(self, rollout: Rollout) -> np.ndarray:
        """Reward of each turn, [N] float32; the rollout's frames must have been submitted."""
        self._score_waiting(len(self._waiting))
        scores, self._scores = self._scores, {}
        rewards = rollout.env_rewards.astype(np.float32).copy()
        offsets = rollout.trajectory_offsets
        for m, item in enumerate(rollout.items):
            probabilities = np.array(scores[item.trajectory_index], dtype=np.float32)
            turns = slice(int(offsets[m]), int(offsets[m + 1]))
            if len(probabilities) != turns.stop - turns.start + 1:
                raise RuntimeError(
                    f"trajectory {item.trajectory_index} has {turns.stop - turns.start} turns and"
                    f" {len(probabilities)} scored frames: each observation is to be submitted once"
                )
            ends = bool(rollout.terminated[m]) or not self._bootstrap_truncated
            rewards[turns] += self._shape(probabilities, ends)
        return rewards

    def _shape(self, probabilities: np.ndarray, ends: bool) -> np.ndarray:
        if self._config.mode == "added":
            return compute_added_reward(probabilities, self._config.weight, self._max_turns)
        return compute_potential_reward(probabilities, self._config.weight, self._gamma, ends=ends)

    def _score_waiting(self, count: int) -> None:
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        if not batch:
            return
        images = np.stack([image for _, image, _ in batch])
        scores = self._model.score(images, [text for _, _, text in batch], self._config.batch_size)
        for (trajectory, _, _), score in zip(batch, scores, strict=True):
            self._scores.setdefault(trajectory, []).append(float(score))


def compute_added_reward(probabilities: np.ndarray, weight: float, max_turns: int) -> np.ndarray:
    """Weight x probability of the frame after each turn / max_turns, [T]: their sum is at most the weight.

    Args:
        probabilities: [T + 1] of the frames before the first turn and after each.
        weight: below 1.
        max_turns: no less than T.
    """
    return weight * probabilities[1:] / max_turns


def compute_potential_reward(probabilities: np.ndarray, weight: float, gamma: float, *, ends: bool) -> np.ndarray:
    """Gamma Phi(s') - Phi(s) with Phi = weight x probability, [T] (Ng, Harada and Russell 1999).

    Args:
        probabilities: [T + 1] of the frames before the first turn and after each.
        weight: of the potential.
        gamma: discount per turn.
        ends: nothing follows the last frame, so its potential is 0; else the value of the last frame counts on.
    """
    potential = weight * probabilities.astype(np.float32)
    if ends:
        potential[-1] = 0.0
    return gamma * potential[1:] - potential[:-1]


def check_reward(config: TrainConfig, spec: EnvSpec) -> None:
    """Checks that the model fits the environment, and warns of tasks that it was not trained on.

    Raises:
        UserError: no model at the place that the configuration names, or one for images of another size.
    """
    # Only here: the arithmetic above needs no model.
    from vlarl.rewards.process.folder import load_card

    folder = Path(str(config.process_reward.model))
    card = load_card(folder)
    if card.model.image_size != config.env.image_size:
        raise UserError(
            f"the reward model {folder} takes images of {card.model.image_size} pixels, env.image_size is"
            f" {config.env.image_size}: train one for these, or change env.image_size; {card.summary}"
        )
    strange = [spec.instructions[t] for t in config.env.task_ids if spec.instructions[t] not in card.instructions]
    if strange:
        warnings.warn(
            f"the reward model {folder} was not trained on {', '.join(map(repr, strange))}; {card.summary}",
            stacklevel=2,
        )


def make_reward(config: TrainConfig, spec: EnvSpec) -> ProcessReward:
    """Loads the model that the configuration names.

    Raises:
        UserError: see `check_reward`; or the weights are damaged.
    """
    from vlarl.rewards.process.folder import load_reward_model

    model, _ = load_reward_model(Path(str(config.process_reward.model)))
    return ProcessReward(
        model,
        config.process_reward,
        max_turns=compute_max_turns(config.env, spec),
        gamma=config.ppo.gamma,
        bootstrap_truncated=config.ppo.bootstrap_truncated,
    )
