"""Watches a training run for the failure signatures of RL on VLA policies."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlarl.configs.monitor import MonitorConfig

Row = Mapping[str, Any]
REWARD_HACKING = "reward_hacking"


@dataclass(frozen=True)
class MonitorWarning:
    """One finding: what was seen, with its figures, and what to do."""

    code: str
    iteration: int
    message: str
    advice: str


class Monitor:
    """Stateless: its warnings follow from the logged rows, so a resumed run repeats none and misses none."""

    def __init__(self, config: MonitorConfig) -> None:
        self._config = config
        self._signatures: tuple[Callable[[Sequence[Row]], MonitorWarning | None], ...] = (
            self._non_finite,
            self._episode_length,
            self._entropy,
            self._flat,
            self._reward_hacking,
            self._drift,
        )

    def check(self, history: Sequence[Row]) -> list[MonitorWarning]:
        """Returns the warnings that are new with the last row: seen now, and not one row earlier."""
        warnings = []
        for signature in self._signatures:
            warning = signature(history)
            if warning and (len(history) == 1 or signature(history[:-1]) is None):
                warnings.append(warning)
        return warnings

    def _ppo_rows(self, history: Sequence[Row]) -> list[Row]:
        return [row for row in history if not row["critic_warmup"]]

    def _ends(self, rows: Sequence[Row], name: str) -> tuple[float, float] | None:
        """Means of `name` over the first and the last window, or None when they would overlap or are not finite."""
        window = self._config.window
        if len(rows) < 2 * window:
            return None
        values = [row[name] for row in rows]
        if not all(_is_finite(value) for value in values[:window] + values[-window:]):
            return None
        return float(np.mean(values[:window])), float(np.mean(values[-window:]))

    def _non_finite(self, history: Sequence[Row]) -> MonitorWarning | None:
        row = history[-1]
        bad = [name for name, value in row.items() if not _is_finite(value)]
        if not bad:
            return None
        return MonitorWarning(
            "non_finite",
            row["iteration"],
            f"{', '.join(bad[:4])} became NaN or infinite.",
            "Go back to the last checkpoint with a lower ppo.learning_rate.",
        )

    def _episode_length(self, history: Sequence[Row]) -> MonitorWarning | None:
        ends = self._ends(self._ppo_rows(history), "charts/episode_steps")
        if ends is None or ends[1] < (1 + self._config.episode_length_rise) * ends[0]:
            return None
        return MonitorWarning(
            "episode_length_rising",
            history[-1]["iteration"],
            f"Episodes grew from {ends[0]:.0f} to {ends[1]:.0f} env steps.",
            "The policy is stalling: lower ppo.learning_rate or ppo.temperature, or shorten env.max_episode_steps.",
        )

    def _entropy(self, history: Sequence[Row]) -> MonitorWarning | None:
        ends = self._ends(self._ppo_rows(history), "rollout/entropy")
        if ends is None or ends[1] > self._config.entropy_fraction * ends[0]:
            return None
        return MonitorWarning(
            "entropy_collapsing",
            history[-1]["iteration"],
            f"Entropy per token fell from {ends[0]:.3f} to {ends[1]:.3f} nats.",
            "Exploration is ending: raise ppo.clip_ratio_high or ppo.entropy_coef, or raise ppo.temperature.",
        )

    def _flat(self, history: Sequence[Row]) -> MonitorWarning | None:
        config = self._config
        rows = self._ppo_rows(history)[-config.flat_iterations :]
        if len(rows) < config.flat_iterations:
            return None
        prefix = "curriculum/probability/"
        shares = {name.removeprefix(prefix): share for name, share in rows[-1].items() if name.startswith(prefix)}
        success, reward = (self._ends(rows, name) for name in ("charts/success_rate", "charts/reward"))
        # An odd task out counts to the less sampled half; a single task is never concentrated.
        ranked = sorted(shares, key=lambda task: shares[task], reverse=True)[: len(shares) // 2]
        share = sum(shares[task] for task in ranked)
        if success is None or reward is None or share < config.concentrated_share:
            return None
        flat = all(abs(b - a) < config.flat_change for a, b in (success, reward))
        if not flat or success[1] >= config.solved_success:
            return None
        return MonitorWarning(
            "flat_while_concentrated",
            history[-1]["iteration"],
            f"Over {len(rows)} iterations success stayed at {success[0]:.2f} -> {success[1]:.2f} and reward at"
            f" {reward[0]:.2f} -> {reward[1]:.2f}, while task {' and '.join(ranked)} got"
            f" {share:.0%} of the trajectories.",
            "The tasks that are sampled teach nothing: use curriculum.strategy uniform, or frontier with a larger"
            " curriculum.min_share, or collect more demonstrations of them.",
        )

    def _reward_hacking(self, history: Sequence[Row]) -> MonitorWarning | None:
        rows = self._ppo_rows(history)
        process, success = (self._ends(rows, name) for name in ("charts/process_reward", "charts/success_rate"))
        if process is None or success is None or process[1] - process[0] < self._config.process_reward_rise:
            return None
        if success[1] - success[0] >= self._config.flat_change:
            return None
        return MonitorWarning(
            REWARD_HACKING,
            history[-1]["iteration"],
            f"Process reward rose from {process[0]:.3f} to {process[1]:.3f} per episode while success went from"
            f" {success[0]:.2f} to {success[1]:.2f}.",
            "Look at the episode in suspicious_videos: if it pleases the reward model without getting further, use"
            " process_reward.mode potential, a lower process_reward.weight, or failures in the reward model's data.",
        )

    def _drift(self, history: Sequence[Row]) -> MonitorWarning | None:
        row = history[-1]
        # Older weights are expected to differ.
        if row["rollout/staleness"] or row["rollout/logprob_drift"] <= self._config.logprob_drift:
            return None
        return MonitorWarning(
            "logprob_drift",
            row["iteration"],
            f"The generator's log-prob of a token is {row['rollout/logprob_drift']:.2f} nats from the learner's.",
            "It may decode with other weights or a stale cache: try the local generator. PPO goes on with the learner's"
            " own log-probs.",
        )


def _is_finite(value: float | int | str | None) -> bool:
    # Rows read back from metrics.jsonl hold null where a number was not finite.
    return value is not None and (isinstance(value, str) or math.isfinite(value))
