"""The learner: scores rollouts and updates policy and value network."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlarl.algorithms.losses import (
    compute_entropy,
    compute_kl,
    compute_policy_loss,
    compute_value_loss,
    explained_variance,
)
from vlarl.algorithms.ppo import Scores, Targets
from vlarl.configs.training import PPOConfig
from vlarl.errors import NonFiniteError
from vlarl.inference.base import PublishedWeights
from vlarl.policies.value import ValueNetwork
from vlarl.policies.vla import PolicyInputs, VLAPolicy
from vlarl.types import Rollout

SCORE_BATCH_SIZE = 256
"""Most turns per forward pass without gradients; no more than two micro-batches."""


class ActorCritic(nn.Module):
    """Policy and value network as one module with one forward pass."""

    def __init__(self, policy: VLAPolicy, value: ValueNetwork) -> None:
        super().__init__()
        self.policy = policy
        self.value = value

    def forward(
        self, inputs: PolicyInputs, elapsed_steps: Tensor, action_tokens: Tensor | None, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log-probs [B, K], entropies [B, K] and values [B]; without tokens only values, the rest empty."""
        values = self.value(inputs, elapsed_steps)
        if action_tokens is None:
            return values.new_empty(0), values.new_empty(0), values
        return (*self.policy.token_logprobs(inputs, action_tokens, temperature), values)


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

    def to(self, device: torch.device) -> "RolloutBatch":
        """Returns the batch on another device."""
        return self._map(lambda t: t.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "RolloutBatch":
        ref = self.scores.ref_logprobs
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
            ),
        )


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that get a gradient."""
    return [p for p in module.parameters() if p.requires_grad]


class Learner:
    """Owns the weights and the optimizers of one run."""

    def __init__(self, model: ActorCritic, reference: VLAPolicy | None, config: PPOConfig, seed: int) -> None:
        self.model = model.eval()
        self._reference = reference
        self._config = config
        self._seed = seed
        shared = {"betas": config.adam_betas, "eps": config.adam_eps, "weight_decay": 0.0}
        self._policy_parameters = trained_parameters(model.policy)
        self._value_parameters = trained_parameters(model.value)
        self._policy_optimizer = torch.optim.AdamW(self._policy_parameters, lr=config.learning_rate, **shared)
        self._value_optimizer = torch.optim.AdamW(self._value_parameters, lr=config.value_learning_rate, **shared)
        self.policy_updates = 0
        self._policy_lr = config.learning_rate

    def publish(self, version: int) -> PublishedWeights:
        """Returns a handle that a generator can load."""
        return PublishedWeights(version=version, policy=self.model.policy)

    @torch.no_grad()
    def score(self, rollout: Rollout) -> Scores:
        """Computes values, final values, old and reference log-probs with the current weights."""
        config, policy = self._config, self.model.policy
        inputs = policy.trunk.process(rollout.observations)
        tokens, elapsed = torch.from_numpy(rollout.action_tokens), torch.from_numpy(rollout.elapsed_steps)
        values, logprobs, ref_logprobs = [], [], []
        size = min(SCORE_BATCH_SIZE, 2 * config.microbatch_size)
        for rows in torch.arange(rollout.num_turns).split(size):
            part, chosen_tokens = inputs.map(lambda t, rows=rows: t[rows].to(policy.device)), tokens[rows]
            chosen_tokens = chosen_tokens.to(policy.device)
            chosen, _, value = self.model(part, elapsed[rows].to(policy.device), chosen_tokens, config.temperature)
            values.append(value.cpu())
            logprobs.append(chosen.cpu())
            if self._reference is not None:
                reference, _ = self._reference.token_logprobs(part, chosen_tokens, config.temperature)
                ref_logprobs.append(reference.cpu())
        final_inputs = policy.trunk.process(rollout.final_observations)
        final, elapsed = [], torch.from_numpy(rollout.episode_steps)
        for rows in torch.arange(rollout.num_trajectories).split(size):
            part = final_inputs.map(lambda t, rows=rows: t[rows].to(policy.device))
            final.append(self.model(part, elapsed[rows].to(policy.device), None, config.temperature)[2].cpu())
        return Scores(
            values=torch.cat(values),
            final_values=torch.cat(final),
            old_logprobs=torch.cat(logprobs),
            ref_logprobs=torch.cat(ref_logprobs) if ref_logprobs else None,
        )

    def update(self, batch: RolloutBatch, iteration: int, *, critic_only: bool) -> dict[str, float]:
        """Minimises the PPO losses on `batch`; in the critic warm-up only the value loss.

        Raises:
            NonFiniteError: a loss or gradient norm is NaN or infinite; no weight was changed by that step.
        """
        config = self._config
        self.model.train()
        epochs = config.critic_warmup_epochs if critic_only else config.update_epochs
        sums: dict[str, float] = defaultdict(float)
        self._set_learning_rates(iteration)
        stopped = False
        for epoch in range(epochs):
            for rows in self._minibatches(len(batch.action_tokens), iteration, epoch):
                step = self._minibatch_step(batch.select(rows), critic_only=critic_only or stopped)
                for name, value in step.items():
                    sums[name] += value
                sums["_updates"] += 1
                sums["_policy_updates"] += "policy_loss" in step
                kl_per_token = step.get("approx_kl", 0.0)
                # The value network goes on learning after the policy has moved as far as it may.
                stopped = stopped or (config.target_kl is not None and kl_per_token > config.target_kl)
        self.model.eval()
        return self._summarise(sums, batch)

    def _set_learning_rates(self, iteration: int) -> None:
        """Anneals over the PPO iterations; the critic warm-up has the full rate."""
        config = self._config
        done = max(0, iteration - config.critic_warmup_iterations)
        share = 1.0 - done / config.num_iterations if config.anneal_lr else 1.0
        self._policy_lr = config.learning_rate * share
        for group in self._value_optimizer.param_groups:
            group["lr"] = config.value_learning_rate * share

    def _minibatches(self, num_turns: int, iteration: int, epoch: int) -> Iterator[Tensor]:
        rng = np.random.Generator(np.random.Philox(key=[self._seed, iteration * 1_000 + epoch]))
        order = torch.from_numpy(rng.permutation(num_turns))
        # Equal parts rather than full ones and a rest: a tiny last minibatch would take a full-size step.
        count = max(1, round(num_turns / self._config.minibatch_size))
        yield from order.tensor_split(count)

    def _minibatch_step(self, batch: RolloutBatch, *, critic_only: bool) -> dict[str, float]:
        """One optimizer step whose gradient does not depend on the micro-batch size."""
        tokens_total = int(batch.targets.token_mask.sum())
        turns_total = len(batch.action_tokens)
        self._policy_optimizer.zero_grad(set_to_none=True)
        self._value_optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = defaultdict(float)
        for rows in torch.arange(turns_total).split(self._config.microbatch_size):
            part = batch.select(rows).to(self.model.policy.device)
            loss, parts = self._loss(part, tokens_total, turns_total, critic_only=critic_only)
            loss.backward()
            for name, value in parts.items():
                sums[name] += value
        self._step(sums, critic_only=critic_only)
        return dict(sums)

    def _loss(
        self, batch: RolloutBatch, tokens_total: int, turns_total: int, *, critic_only: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """The micro-batch's share of the minibatch's loss, and its parts."""
        config = self._config
        tokens = None if critic_only else batch.action_tokens
        logprobs, entropies, values = self.model(batch.inputs, batch.elapsed_steps, tokens, config.temperature)
        value_loss = (
            compute_value_loss(values, batch.scores.values, batch.targets.returns, config.value_clip_range)
            / turns_total
        )
        if critic_only:
            return value_loss, {"value_loss": value_loss.item()}
        mask = batch.targets.token_mask
        policy = compute_policy_loss(
            logprobs,
            batch.scores.old_logprobs,
            batch.targets.advantages,
            mask,
            config.clip_ratio_low,
            config.clip_ratio_high,
            config.ratio_level,
        )
        ratios_total = tokens_total if config.ratio_level == "token" else turns_total
        policy_loss = policy.loss_sum / ratios_total
        entropy = compute_entropy(entropies, mask) / tokens_total
        loss = policy_loss + value_loss
        if config.entropy_coef:
            # Even with weight 0 the entropy would cost a backward pass through the scores of every bin.
            loss = loss - config.entropy_coef * entropy
        parts = {
            "policy_loss": policy_loss.item(),
            "value_loss": value_loss.item(),
            "entropy": entropy.item(),
            "approx_kl": policy.approx_kl_sum.item() / tokens_total,
            "clipfrac": policy.clip_fraction_sum.item() / ratios_total,
        }
        if batch.scores.ref_logprobs is not None:
            kl = compute_kl(logprobs, batch.scores.ref_logprobs, mask) / tokens_total
            loss = loss + config.kl_coef * kl
            parts["ref_kl"] = kl.item()
        return loss, parts

    def _step(self, sums: dict[str, float], *, critic_only: bool) -> None:
        config = self._config
        parts = [(self._value_parameters, self._value_optimizer, "value_grad_norm")]
        if not critic_only:
            parts.append((self._policy_parameters, self._policy_optimizer, "grad_norm"))
        for parameters, _, name in parts:
            sums[name] = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm).item()
        bad = {name: value for name, value in sums.items() if not np.isfinite(value)}
        if bad:
            raise NonFiniteError(
                f"training became non-finite ({', '.join(f'{k} = {v}' for k, v in bad.items())}): the last checkpoint"
                " is kept. Lower ppo.learning_rate or raise ppo.temperature, and train into another --output"
            )
        if not critic_only:
            self.policy_updates += 1
            warmup = min(1.0, self.policy_updates / max(1, config.lr_warmup_updates))
            for group in self._policy_optimizer.param_groups:
                group["lr"] = self._policy_lr * warmup
        for _, optimizer, _ in parts:
            optimizer.step()

    def _summarise(self, sums: dict[str, float], batch: RolloutBatch) -> dict[str, float]:
        """Means over the optimizer steps that computed each part."""
        updates = sums.pop("_updates")
        policy_updates = sums.pop("_policy_updates", 0.0)
        metrics = {}
        for name, total in sums.items():
            count = updates if name in ("value_loss", "value_grad_norm") else policy_updates
            metrics[f"losses/{name}"] = total / count
        metrics["losses/explained_variance"] = explained_variance(batch.scores.values, batch.targets.returns)
        metrics["losses/policy_updates"] = policy_updates
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Optimizers and counters; weights are saved apart."""
        return {
            "policy_optimizer": self._policy_optimizer.state_dict(),
            "value_optimizer": self._value_optimizer.state_dict(),
            "policy_updates": self.policy_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        self._policy_optimizer.load_state_dict(state["policy_optimizer"])
        self._value_optimizer.load_state_dict(state["value_optimizer"])
        self.policy_updates = state["policy_updates"]
