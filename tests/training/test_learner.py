from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import TINY, make_observation, make_policy, random_tokens
from vlarl.algorithms.ppo import Scores, Targets
from vlarl.configs.training import PPOConfig
from vlarl.errors import NonFiniteError
from vlarl.policies.value import make_value_network
from vlarl.training.batch import RolloutBatch
from vlarl.training.learner import ActorCritic, Learner

N, K = 24, TINY.num_action_tokens
CONFIG = PPOConfig(
    minibatch_size=24, microbatch_size=24, target_kl=None, entropy_coef=0.01, kl_coef=0.1, value_clip_range=0.2
)


def make_learner(config: PPOConfig, dtype: torch.dtype = torch.float32) -> Learner:
    policy = make_policy().to(dtype)
    value = make_value_network(policy).to(dtype)
    with torch.no_grad():
        value.head.weight.normal_(generator=torch.Generator().manual_seed(5))
    return Learner(ActorCritic(policy, value), None, config, seed=0)


def make_batch(dtype: torch.dtype = torch.float32) -> RolloutBatch:
    generator = torch.Generator().manual_seed(1)
    policy = make_policy().to(dtype)
    inputs = policy.trunk.process(make_observation(N))
    inputs = replace(inputs, proprio=inputs.proprio.to(dtype))
    tokens = random_tokens(policy, N)
    with torch.no_grad():
        logprobs = policy.token_logprobs(inputs, tokens, 0.6)[0].to(dtype)
    # Turns executed one or two actions; a mask that differs by row makes wrong divisors visible.
    executed = torch.randint(1, 3, (N,), generator=generator)
    noise = torch.randn(N, K, generator=generator, dtype=dtype)
    return RolloutBatch(
        inputs=inputs,
        elapsed_steps=8 * torch.arange(N),
        action_tokens=tokens,
        scores=Scores(
            values=torch.randn(N, generator=generator, dtype=dtype),
            final_values=torch.zeros(1, dtype=dtype),
            old_logprobs=logprobs + 0.2 * noise,
            ref_logprobs=logprobs - 0.1 * noise,
        ),
        targets=Targets(
            advantages=torch.randn(N, generator=generator, dtype=dtype),
            returns=torch.randn(N, generator=generator, dtype=dtype),
            token_mask=torch.arange(K)[None] // TINY.action_dim < executed[:, None],
        ),
    )


def gradients(learner: Learner) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("ratio_level", ["token", "turn"])
@pytest.mark.parametrize("microbatch_size", [1, 5, 8])
def test_accumulated_gradient_equals_the_minibatchs(ratio_level, microbatch_size):
    results = []
    for size in (N, microbatch_size):
        config = replace(CONFIG, microbatch_size=size, ratio_level=ratio_level, max_grad_norm=1e9)
        learner = make_learner(config, torch.float64)
        learner._minibatch_step(make_batch(torch.float64), critic_only=False)
        results.append(gradients(learner))
    whole, parts = results
    assert whole.abs().max() > 0
    assert ((whole - parts).norm() / whole.norm()).item() < 1e-10


def test_the_entropy_bonus_is_its_weight_times_the_entropys_gradient():
    batch, results = make_batch(torch.float64), []
    for weight in (0.0, 0.5):
        config = replace(CONFIG, entropy_coef=weight, max_grad_norm=1e9)
        learner = make_learner(config, torch.float64)
        learner._minibatch_step(batch, critic_only=False)
        results.append(gradients(learner))
    policy = make_policy().to(torch.float64)
    _, entropies = policy.token_logprobs(batch.inputs, batch.action_tokens, CONFIG.temperature)
    mask = batch.targets.token_mask
    ((entropies * mask).sum() / mask.sum()).backward()
    entropy = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    assert entropy.abs().max() > 1e-3
    difference = (results[1] - results[0])[: len(entropy)]
    torch.testing.assert_close(difference, -0.5 * entropy, rtol=1e-4, atol=1e-5)


def test_critic_only_leaves_the_policy_alone():
    learner = make_learner(CONFIG)
    before = {name: p.clone() for name, p in learner.model.named_parameters()}
    metrics = learner.update(make_batch(), 0, critic_only=True)
    changed = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(name.startswith("value.") for name in changed)
    assert "losses/policy_loss" not in metrics
    assert learner.policy_updates == 0


def test_update_learns_the_returns_and_moves_towards_good_tokens():
    config = replace(CONFIG, update_epochs=30, lr_warmup_updates=0, kl_coef=0.0, value_clip_range=None)
    learner, batch = make_learner(config), make_batch()
    with torch.no_grad():
        before, _, _ = learner.model(batch.inputs, batch.elapsed_steps, batch.action_tokens, 0.6)
    first = learner.update(batch, 0, critic_only=False)["losses/value_loss"]
    last = learner.update(batch, 1, critic_only=False)["losses/value_loss"]
    with torch.no_grad():
        after, _, _ = learner.model(batch.inputs, batch.elapsed_steps, batch.action_tokens, 0.6)
    gain = ((after - before) * batch.targets.token_mask).sum(-1)
    assert last < 0.5 * first
    assert np.corrcoef(gain.numpy(), batch.targets.advantages.numpy())[0, 1] > 0.5


def test_target_kl_stops_the_policy_but_not_the_value_network():
    config = replace(CONFIG, update_epochs=4, target_kl=1e-9, lr_warmup_updates=0)
    metrics = make_learner(config).update(make_batch(), 0, critic_only=False)
    assert metrics["losses/policy_updates"] == 1
    assert metrics["losses/value_grad_norm"] > 0


def test_turns_without_a_token_to_learn_from_are_left_out():
    batch = make_batch()
    assert batch.without_masked_turns() is batch
    masked = batch.targets.token_mask.clone()
    masked[::3] = False
    rest = replace(batch, targets=replace(batch.targets, token_mask=masked)).without_masked_turns()
    kept = [n for n in range(N) if n % 3]
    assert torch.equal(rest.action_tokens, batch.action_tokens[kept])
    assert torch.equal(rest.targets.advantages, batch.targets.advantages[kept])
    none = replace(batch, targets=replace(batch.targets, token_mask=torch.zeros_like(masked)))
    assert len(none.without_masked_turns().action_tokens) == 0


def test_learning_rate_warms_up():
    learner = make_learner(replace(CONFIG, lr_warmup_updates=4, learning_rate=1e-3))
    batch = make_batch()
    rates = []
    for _ in range(5):
        learner._minibatch_step(batch, critic_only=False)
        rates.append(learner._policy_optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_a_non_finite_loss_stops_before_any_weight_changes():
    learner, batch = make_learner(CONFIG), make_batch()
    batch.targets.returns[3] = float("nan")
    before = {name: p.clone() for name, p in learner.model.named_parameters()}
    with pytest.raises(NonFiniteError, match="value_loss"):
        learner.update(batch, 0, critic_only=False)
    assert all(torch.equal(p, before[name]) for name, p in learner.model.named_parameters())


def test_every_turn_is_used_once_per_epoch():
    learner = make_learner(replace(CONFIG, minibatch_size=7, microbatch_size=7))
    parts = list(learner._minibatches(N, iteration=2, epoch=0))
    assert sorted(torch.cat(parts).tolist()) == list(range(N))
    assert [len(p) for p in parts] == [8, 8, 8]
    again = list(learner._minibatches(N, iteration=2, epoch=0))
    other = list(learner._minibatches(N, iteration=2, epoch=1))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(torch.cat(parts), torch.cat(other))


@pytest.mark.parametrize(("iteration", "share"), [(0, 1.0), (1, 1.0), (6, 0.5), (10, 0.1)])
def test_learning_rates_anneal_over_the_ppo_iterations(iteration, share):
    config = replace(CONFIG, num_iterations=10, learning_rate=1e-3, value_learning_rate=2e-3)
    learner = make_learner(replace(config, lr_warmup_updates=0))
    learner._set_learning_rates(iteration)
    learner._minibatch_step(make_batch(), critic_only=False)
    assert learner._policy_optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * share)
    assert learner._value_optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * share)
    constant = make_learner(replace(config, anneal_lr=False))
    constant._set_learning_rates(iteration)
    assert constant._policy_lr == 1e-3
