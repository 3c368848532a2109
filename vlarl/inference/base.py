"""The contract of an action generator. It returns no values: those come from the learner."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import nn

from vlarl.types import Generation, Observation


class WeightsHandle(Protocol):
    """What Learner.publish returns: it says where the weights of a version are, and a generator loads it."""

    @property
    def version(self) -> int:
        """Policy version."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """What the publication took, for the log."""
        ...


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """What Learner.publish hands to a generator in the same process: the module itself, nothing is copied."""

    version: int
    policy: nn.Module

    @property
    def metrics(self) -> Mapping[str, float]:
        """See WeightsHandle: nothing is merged, and nothing travels."""
        return {"time/publish": 0.0, "system/sync_bytes": 0.0}


class ActionGenerator(Protocol):
    """Samples action tokens for a batch of observations."""

    policy_version: int
    num_action_tokens: int
    """K."""

    def generate(self, observations: Observation, noise: np.ndarray | None) -> Generation:
        """Decodes one turn per observation.

        Args:
            observations: B of them.
            noise: [B, K] float64 uniform in [0, 1), which alone decides what is sampled; None decodes greedily.
        """
        ...

    def load(self, published: WeightsHandle) -> None:
        """Takes new weights."""
        ...


def sampling_noise(seed: int, trajectory_index: int, turn: int, num_tokens: int) -> np.ndarray:
    """Uniform noise [num_tokens] float64 of one turn: a counter-based function of its arguments, without state."""
    # Philox takes a 128-bit key and a 256-bit counter; the low counter word is the generator's own position.
    generator = np.random.Philox(key=[seed & (2**64 - 1), 0], counter=[0, turn, trajectory_index, 0])
    return np.random.Generator(generator).random(num_tokens)
