"""The learner: scores rollouts and updates policy and value network."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

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
from vlarl.distributed.fsdp import local_part, whole
from vlarl.distributed.ranks import ALONE, Ranks
from vlarl.errors import NonFiniteError
from vlarl.inference.base import PublishedWeights
from vlarl.policies.value import ConstantValue, ValueNetwork
from vlarl.policies.vla import PolicyInputs, VLAPolicy
from vlarl.training.batch import RolloutBatch, make_batch
from vlarl.training.learner_files import load_optimizers, save_model, save_optimizers
from vlarl.types import Rollout

SCORE_BATCH_SIZE = 256
"""Most turns per forward pass without gradients; no more than two micro-batches."""


class ActorCritic(nn.Module):
    """Policy and value network as one module with one forward pass."""

    def __init__(self, policy: VLAPolicy, value: ValueNetwork | ConstantValue) -> None:
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


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that get a gradient."""
    return [p for p in module.parameters() if p.requires_grad]


class Learner:
    """Owns the weights and the optimizers of one run, or one rank's part of them.

    With several ranks every method is a meeting of all of them, with the same arguments and results.
    """

    def __init__(
        self,
        model: ActorCritic,
        reference: VLAPolicy | None,
        config: PPOConfig,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model.eval()
        self._ranks = ranks
        self._device = model.policy.device
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
        config, trunk = self._config, self.model.policy.trunk
        tokens, elapsed = torch.from_numpy(rollout.action_tokens), torch.from_numpy(rollout.elapsed_steps)
        inputs, final_inputs = trunk.process(rollout.observations), trunk.process(rollout.final_observations)
        values, final_values = torch.zeros(rollout.num_turns), torch.zeros(rollout.num_trajectories)
        logprobs = torch.zeros(tokens.shape)
        ref_logprobs = None if self._reference is None else torch.zeros(tokens.shape)
        for rows, is_mine in self._score_batches(rollout.num_turns):
            part, chosen_tokens = self._rows(inputs, rows), tokens[rows].to(self._device)
            chosen, _, value = self.model(part, elapsed[rows].to(self._device), chosen_tokens, config.temperature)
            reference = None
            if self._reference is not None:
                reference, _ = self._reference.token_logprobs(part, chosen_tokens, config.temperature)
            if is_mine:
                values[rows], logprobs[rows] = value.cpu(), chosen.cpu()
                if ref_logprobs is not None:
                    ref_logprobs[rows] = reference.cpu()
        elapsed = torch.from_numpy(rollout.episode_steps)
        for rows, is_mine in self._score_batches(rollout.num_trajectories):
            part = self._rows(final_inputs, rows)
            value = self.model(part, elapsed[rows].to(self._device), None, config.temperature)[2]
            if is_mine:
                final_values[rows] = value.cpu()
        add = self._ranks.sum
        return Scores(
            values=add(values),
            final_values=add(final_values),
            old_logprobs=add(logprobs),
            ref_logprobs=None if ref_logprobs is None else add(ref_logprobs),
        )

    def _rows(self, inputs: PolicyInputs, rows: Tensor) -> PolicyInputs:
        return inputs.map(lambda t: t[rows].to(self._device))

    def _score_batches(self, count: int) -> Iterator[tuple[Tensor, bool]]:
        """The batches that one rank alone would compute, dealt out; as many on every rank, some twice."""
        batches = torch.arange(count).split(min(SCORE_BATCH_SIZE, 2 * self._config.microbatch_size))
        for first in range(0, len(batches), self._ranks.size):
            mine = first + self._ranks.rank
            yield batches[min(mine, len(batches) - 1)], mine < len(batches)

    def learn(
        self, rollout: Rollout, scores: Scores, targets: Targets, iteration: int, *, critic_only: bool
    ) -> dict[str, float]:
        """Updates on a scored rollout; returns metrics.

        Raises:
            NonFiniteError: a loss, a gradient norm or a weight became NaN or infinite.
        """
        batch = make_batch(self.model.policy.trunk, rollout, scores, targets).without_masked_turns()
        if not len(batch.action_tokens):
            return {"losses/policy_updates": 0.0}
        metrics = self.update(batch, iteration, critic_only=critic_only)
        self._require_finite_weights(iteration)
        return metrics

    def _require_finite_weights(self, iteration: int) -> None:
        """The last step of an update can break weights that no later loss of it shows: they are never saved."""
        trained = trained_parameters(self.model)
        broken = sum(not torch.isfinite(local_part(p)).all() for p in trained)
        if self._ranks.sum(torch.tensor(int(broken))) > 0:
            raise NonFiniteError(
                f"the weights became non-finite in iteration {iteration}: the last checkpoint is kept. Train again with"
                " a lower ppo.learning_rate or ppo.value_learning_rate into another --output"
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
        for rows, weight in self._ranks.share(turns_total, self._config.microbatch_size):
            part = batch.select(rows).to(self._device)
            loss, parts = self._loss(part, tokens_total, turns_total, critic_only=critic_only)
            (weight * loss).backward()
            for name, value in parts.items():
                sums[name] += value if weight else 0.0
        sums = self._ranks.sum_numbers(sums)
        self._step(sums, critic_only=critic_only)
        return sums

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
            batch.targets.importance_weights,
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
            sums[name] = whole(nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)).item()
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

    def save(self, folder: Path) -> None:
        """Writes weights and optimizers into a checkpoint's folder; any number of ranks can go on from there."""
        save_model(self.model, folder, self._ranks)
        save_optimizers(self.model, self._optimizers, self.policy_updates, folder, self._ranks)

    def load_optimizers(self, folder: Path) -> None:
        """Goes on from a checkpoint whose weights the model has already.

        Raises:
            UserError: a file is missing or damaged.
        """
        self.policy_updates = load_optimizers(self.model, self._optimizers, folder, self._ranks)

    @property
    def _optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return self._policy_optimizer, self._value_optimizer
