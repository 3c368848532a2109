"""A rollout as the learner needs it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlarl.algorithms.ppo import Scores, Targets
from vlarl.policies.vla import PolicyInputs, VLATrunk
from vlarl.types import Rollout


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """A rollout as the learner needs it: N turns, sorted by (trajectory, turn)."""

    inputs: PolicyInputs
    elapsed_steps: Tensor
    """[N] int64, env steps of the trajectory before the turn."""
    action_tokens: Tensor
    """[N, K] int64."""
    scores: Scores
    targets: Targets

    def select(self, index: Tensor) -> "RolloutBatch":
        """Returns the turns `index` [n]."""
        return self._map(lambda t: t[index])

    def without_masked_turns(self) -> "RolloutBatch":
        """Leaves out turns without a token to learn from, which critic-free algorithms may have, even all of them."""
        kept = self.targets.token_mask.any(-1)
        return self if kept.all() else self.select(kept)

    def to(self, device: torch.device) -> "RolloutBatch":
        """Returns the batch on another device."""
        return self._map(lambda t: t.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "RolloutBatch":
        ref, weights = self.scores.ref_logprobs, self.targets.importance_weights
        return RolloutBatch(
            inputs=self.inputs.map(function),
            elapsed_steps=function(self.elapsed_steps),
            action_tokens=function(self.action_tokens),
            scores=Scores(
                values=function(self.scores.values),
                final_values=self.scores.final_values,
                old_logprobs=function(self.scores.old_logprobs),
                ref_logprobs=None if ref is None else function(ref),
            ),
            targets=Targets(
                advantages=function(self.targets.advantages),
                returns=function(self.targets.returns),
                token_mask=function(self.targets.token_mask),
                importance_weights=None if weights is None else function(weights),
            ),
        )


def make_batch(trunk: VLATrunk, rollout: Rollout, scores: Scores, targets: Targets) -> RolloutBatch:
    """Puts together what `trunk` makes of the observations and what was computed of the rollout, on the CPU."""
    return RolloutBatch(
        inputs=trunk.process(rollout.observations),
        elapsed_steps=torch.from_numpy(rollout.elapsed_steps),
        action_tokens=torch.from_numpy(rollout.action_tokens),
        scores=scores,
        targets=targets,
    )
