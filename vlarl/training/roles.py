"""What the trainer needs of the parts that may live in other processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vlarl.algorithms.ppo import Scores, Targets
from vlarl.configs.training import TrainConfig
from vlarl.inference.base import ActionGenerator, WeightsHandle
from vlarl.rewards.base import RewardFn
from vlarl.rollout.collector import ObservationTransform, ProgressFn
from vlarl.types import Rollout, WorkItem


class TrainingLearner(Protocol):
    """A learner, wherever its weights are."""

    def publish(self, version: int) -> WeightsHandle:
        """Returns a handle that a generator can load."""
        ...

    def score(self, rollout: Rollout) -> Scores:
        """Computes values, final values, old and reference log-probs with the current weights."""
        ...

    def learn(
        self, rollout: Rollout, scores: Scores, targets: Targets, iteration: int, *, critic_only: bool
    ) -> dict[str, float]:
        """Updates on a scored rollout; returns metrics.

        Raises:
            NonFiniteError: a loss, a gradient norm or a weight became NaN or infinite.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes weights and optimizers into a checkpoint's folder."""
        ...


class RolloutCollector(Protocol):
    """A collector, wherever its environments are."""

    def submit(self, generator: ActionGenerator, items: Sequence[WorkItem]) -> None:
        """Asks for a trajectory per item, sampled with the weights that the generator has loaded by then."""
        ...

    def result(self, reward_fn: RewardFn, progress: ProgressFn | None = None) -> Rollout:
        """Returns the rollout that was submitted first and not yet returned; hands its observations to `reward_fn`."""
        ...

    def collect(
        self,
        generator: ActionGenerator,
        items: Sequence[WorkItem],
        *,
        greedy: bool = False,
        transform: ObservationTransform | None = None,
        progress: ProgressFn | None = None,
    ) -> Rollout:
        """See Collector.collect."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a trainer works with."""

    learner: TrainingLearner
    collector: RolloutCollector
    generator: ActionGenerator
    restarted_episodes: Callable[[], int]
    """Episodes begun again so far because a worker died."""
    take_rates: Callable[[], dict[str, float]]
    """Env steps per second of each environment worker while it was busy, since the last call."""


class Roles(Protocol):
    """Makes the parts, in this process or in others."""

    @property
    def max_restarts(self) -> int:
        """Losses of a part after which the training ends."""
        ...

    def start(self, config: TrainConfig, policy_folder: Path, checkpoint: Path | None) -> Parts:
        """Makes them anew; those made before are ended.

        Args:
            config: of the run.
            policy_folder: the policy that training started from.
            checkpoint: folder of the checkpoint to go on from.

        Raises:
            UserError: a file of the checkpoint is missing or damaged, or the roles do not fit what there is.
        """
        ...


class RoleLostError(RuntimeError):
    """A process of the training died or is silent; the training can go on from its newest checkpoint."""
