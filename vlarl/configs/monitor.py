"""When the training monitor warns."""

from dataclasses import dataclass

from vlarl.configs.checks import require_at_least, require_positive, require_share
from vlarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Windows and thresholds of the failure signatures.

    Raises:
        UserError: if a value is impossible.
    """

    window: int = 4
    """Iterations that are averaged, at the start and at the end of what is compared."""
    episode_length_rise: float = 0.15
    """Warn when episodes are longer than at the start of PPO by this share."""
    entropy_fraction: float = 0.35
    """Warn when the entropy per token falls below this share of its value at the start of PPO."""
    flat_iterations: int = 12
    """Iterations over which reward and success are judged flat."""
    flat_change: float = 0.05
    """Success and reward are flat when both change by less than this (rate, reward per episode)."""
    solved_success: float = 0.9
    """Above this success rate a flat curve is no failure."""
    process_reward_rise: float = 0.03
    """Warn when the process reward per episode rises by this while success rises by less than flat_change."""
    logprob_drift: float = 0.5
    """Warn when the generator's log-prob of a token is this far from the learner's, nats, with the newest weights. Half
    precisions differ by a few hundredths; a cache of older weights was seen to be off by more than 1."""
    concentrated_share: float = 0.8
    """Sampling is concentrated when the more sampled half of the tasks gets at least this share (of two, one task)."""

    def __post_init__(self) -> None:
        require_at_least(self, "monitor", 1, "window")
        if self.flat_iterations < 2 * self.window:
            raise UserError(
                f"monitor.flat_iterations must be at least twice monitor.window, got {self.flat_iterations} and"
                f" {self.window}"
            )
        shares = ("episode_length_rise", "entropy_fraction", "flat_change", "solved_success", "concentrated_share")
        thresholds = (*shares, "process_reward_rise")
        require_positive(self, "monitor", *thresholds, "logprob_drift")
        require_share(self, "monitor", *thresholds)
