import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vlarl.algorithms.losses import (
    compute_entropy,
    compute_importance_weights,
    compute_kl,
    compute_policy_loss,
    compute_value_loss,
    explained_variance,
)

RATIOS = torch.tensor([[1.5, 0.5], [1.5, 0.5]], dtype=torch.float64)
ADVANTAGES = torch.tensor([2.0, -1.0], dtype=torch.float64)
MASK = torch.tensor([[True, True], [True, False]])


def hand_loss(ratio_level, *, mask=MASK):
    old = torch.full_like(RATIOS, -2.0)
    logprobs = (old + RATIOS.log()).requires_grad_()
    loss = compute_policy_loss(logprobs, old, ADVANTAGES, mask, 0.2, 0.28, ratio_level)
    (gradient,) = torch.autograd.grad(loss.loss_sum, logprobs)
    return loss, gradient


def k3(ratio: float) -> float:
    return ratio - 1 - math.log(ratio)


def test_token_ratio_by_hand():
    loss, gradient = hand_loss("token")
    # A = 2: min(3, 1.28 * 2) + min(1, 0.8 * 2) = 3.56; A = -1: min(-1.5, -1.28) = -1.5; the last token is masked.
    assert loss.loss_sum.item() == pytest.approx(-3.56 + 1.5, rel=1e-12)
    assert loss.clip_fraction_sum.item() == 3
    assert loss.approx_kl_sum.item() == pytest.approx(2 * k3(1.5) + k3(0.5), rel=1e-12)
    # d(-A r)/d log-prob = -A r where the clipped branch is not the smaller one.
    assert gradient.tolist() == [pytest.approx([0.0, -1.0]), pytest.approx([1.5, 0.0])]


def test_turn_ratio_by_hand():
    loss, gradient = hand_loss("turn")
    # Ratios of the turns: 1.5 * 0.5 = 0.75 and 1.5; min(1.5, 0.8 * 2) = 1.5 and min(-1.5, -1.28) = -1.5.
    assert loss.loss_sum.item() == pytest.approx(-1.5 + 1.5, abs=1e-12)
    assert loss.clip_fraction_sum.item() == 2
    # The KL divergence stays one over tokens.
    assert loss.approx_kl_sum.item() == pytest.approx(2 * k3(1.5) + k3(0.5), rel=1e-12)
    assert gradient.tolist() == [pytest.approx([-1.5, -1.5]), pytest.approx([1.5, 0.0])]


def test_all_tokens_count_when_all_are_executed():
    loss, _ = hand_loss("token", mask=torch.ones_like(MASK))
    # The fourth token adds min(-0.5, -0.8) = -0.8.
    assert loss.loss_sum.item() == pytest.approx(-3.56 + 1.5 + 0.8, rel=1e-12)


@pytest.mark.parametrize(("clip_high", "expected_gradient"), [(0.28, -1.25), (0.2, 0.0)])
def test_clip_higher_leaves_room_above(clip_high, expected_gradient):
    logprobs = torch.tensor([[math.log(1.25)]], requires_grad=True)
    loss = compute_policy_loss(
        logprobs, torch.zeros(1, 1), torch.ones(1), torch.ones(1, 1, dtype=torch.bool), 0.2, clip_high, "token"
    )
    loss.loss_sum.backward()
    assert logprobs.grad.item() == pytest.approx(expected_gradient)
    assert loss.clip_fraction_sum.item() == (expected_gradient == 0)


@pytest.mark.parametrize("ratio_level", ["token", "turn"])
def test_masked_tokens_have_no_influence(ratio_level):
    old = torch.zeros(1, 2)
    for other in (0.3, 50.0, math.inf):
        logprobs = torch.tensor([[0.1, other]], requires_grad=True)
        mask = torch.tensor([[True, False]])
        loss = compute_policy_loss(logprobs, old, torch.ones(1), mask, 0.2, 0.28, ratio_level)
        loss.loss_sum.backward()
        assert loss.loss_sum.item() == pytest.approx(-math.exp(0.1))
        assert loss.approx_kl_sum.item() == pytest.approx(k3(math.exp(0.1)), rel=1e-4)
        assert logprobs.grad.tolist() == [[pytest.approx(-math.exp(0.1)), 0.0]]


@pytest.mark.parametrize("ratio_level", ["token", "turn"])
def test_at_the_old_policy_the_gradient_is_the_policy_gradient(ratio_level):
    logprobs = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    advantages = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    mask = torch.ones(5, 3, dtype=torch.bool)
    loss = compute_policy_loss(logprobs, logprobs.detach(), advantages, mask, 0.2, 0.28, ratio_level)
    loss.loss_sum.backward()
    torch.testing.assert_close(logprobs.grad, -advantages[:, None].expand(5, 3))
    assert loss.approx_kl_sum.item() == 0
    assert loss.clip_fraction_sum.item() == 0


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 12),
    micro=st.integers(1, 12),
    ratio_level=st.sampled_from(["token", "turn"]),
)
def test_micro_batches_add_up(seed, rows, micro, ratio_level):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 0.4 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    logprobs, old, ref, entropies = (draw(rows, 6) for _ in range(4))
    advantages, values, old_values, returns = (draw(rows) for _ in range(4))
    mask = torch.arange(6) < torch.randint(1, 7, (rows, 1), generator=generator)
    logprobs.requires_grad_()
    values.requires_grad_()

    def total(index: Tensor) -> Tensor:
        policy = compute_policy_loss(
            logprobs[index], old[index], advantages[index], mask[index], 0.2, 0.28, ratio_level
        )
        parts = (
            policy.loss_sum,
            compute_value_loss(values[index], old_values[index], returns[index], 0.2),
            compute_entropy(entropies[index], mask[index]),
            compute_kl(logprobs[index], ref[index], mask[index]),
            policy.approx_kl_sum,
            policy.clip_fraction_sum,
        )
        return torch.stack([part.double() for part in parts])

    everything = torch.arange(rows)
    whole = total(everything)
    whole_gradients = torch.autograd.grad(whole[:4].sum(), [logprobs, values])
    sums = torch.zeros(6, dtype=torch.float64)
    gradients = [torch.zeros_like(logprobs), torch.zeros_like(values)]
    for index in everything.split(micro):
        part = total(index)
        sums += part.detach()
        for gradient, more in zip(gradients, torch.autograd.grad(part[:4].sum(), [logprobs, values]), strict=True):
            gradient += more
    torch.testing.assert_close(sums, whole.detach(), rtol=1e-12, atol=1e-12)
    for gradient, expected in zip(gradients, whole_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_value_loss_by_hand():
    values, old = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])
    returns = torch.tensor([0.0, 3.0])
    # 0.5 * (1 + 0); clipped: the second may move to 1.5 only and is 1.5 off, 0.5 * (1 + 2.25).
    assert compute_value_loss(values, old, returns, None).item() == 0.5
    assert compute_value_loss(values, old, returns, 0.5).item() == 1.625


def test_entropy_counts_executed_tokens_only():
    entropies = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    assert compute_entropy(entropies, MASK).item() == 7.0


def test_kl_by_hand():
    logprobs = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([[math.log(2), 0.0], [math.log(0.5), 9.0]], dtype=torch.float64)
    kl = compute_kl(logprobs, ref, MASK)
    assert kl.item() == pytest.approx(k3(2.0) + k3(0.5), rel=1e-12)
    kl.backward()
    # d(e^d - 1 - d)/d log-prob with d = ref - log-prob is 1 - e^d: down where the policy is above the reference.
    assert logprobs.grad.tolist() == [pytest.approx([-1.0, 0.0]), pytest.approx([0.5, 0.0])]


def test_kl_estimates_the_divergence():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    exact = (p * (p / q).log()).sum().item()
    samples = torch.multinomial(p, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    estimate = compute_kl(p.log()[samples][:, None], q.log()[samples][:, None], torch.ones(200_000, 1) > 0) / 200_000
    assert estimate.item() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(
    ("predictions", "expected"), [([1.0, 2.0, 3.0], 1.0), ([2.0, 2.0, 2.0], 0.0), ([3.0, 2.0, 1.0], -3.0)]
)
def test_explained_variance_by_hand(predictions, expected):
    targets = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(torch.tensor(predictions), targets) == pytest.approx(expected)


def test_explained_variance_of_constant_targets():
    assert explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])) == 0.0


@pytest.fixture
def raw(published) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in published.arrays("rl_ppo_loss.npz").items()}


@pytest.mark.parametrize(
    ("case", "clip_high", "advantages"),
    [
        ("main", 0.2, "advantages"),
        ("main_norm", 0.2, "advantages_normalized"),
        ("dev", 0.4, "advantages"),
        ("dev_norm", 0.4, "advantages_normalized"),
    ],
)
def test_reference_policy_loss(published, raw, case, clip_high, advantages):
    logprobs = raw["new_logprobs"].clone().requires_grad_()
    rows, tokens = logprobs.shape
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    loss = compute_policy_loss(logprobs, raw["old_logprobs"], raw[advantages], mask, 0.2, clip_high, "turn")
    (loss.loss_sum / rows).backward()
    published.within("PPO, policy loss", loss.loss_sum.detach() / rows, raw[f"{case}_pg_loss"], 1e-5)
    published.within("PPO, policy gradient", logprobs.grad, raw[f"{case}_grad_new_logprobs"], 1e-5)
    # The reference's KL is over turns (one token per turn here) and takes 1 / ratio, so new and old change places.
    summed = compute_policy_loss(
        raw["old_logprobs"].sum(-1, keepdim=True),
        raw["new_logprobs"].sum(-1, keepdim=True),
        raw[advantages],
        mask[:, :1],
        0.2,
        clip_high,
        "token",
    )
    published.within("PPO, approximate KL", summed.approx_kl_sum / rows, raw[f"{case}_approxkl"], 1e-5)
    outside = (raw[f"{case}_ratio"] < 0.8) | (raw[f"{case}_ratio"] > 1 + clip_high)
    assert loss.clip_fraction_sum == outside.sum()
    # The reference counts those that the clipping holds back; ours also those that it lets return.
    held = outside & ((raw[f"{case}_ratio"] > 1) == (raw[advantages] > 0))
    published.within("PPO, share held back by the clip", held.float().mean(), raw[f"{case}_pg_clipfrac"], 0)


def test_reference_value_loss(published, raw):
    values = raw["vpred"].clone().requires_grad_()
    loss = compute_value_loss(values, raw["mb_values"], raw["mb_returns"], 0.2) / len(values)
    loss.backward()
    published.within("value loss", loss, raw["vf_loss"], 1e-5)
    published.within("value loss, gradient", values.grad, raw["grad_vpred"], 1e-6)
    unclipped = compute_value_loss(raw["vpred"], raw["mb_values"], raw["mb_returns"], None)
    rows = [
        (compute_value_loss(*row, 0.2) > compute_value_loss(*row, None)).item()
        for row in zip(*(raw[name].split(1) for name in ("vpred", "mb_values", "mb_returns")), strict=True)
    ]
    published.within("value loss, share clipped", np.mean(rows), raw["vf_clipfrac"], 0)
    published.within("value loss, not clipped", unclipped / len(values), raw["vf_loss_unclipped"], 1e-5)


def test_importance_weights_by_hand():
    old = torch.log(torch.tensor([[0.2, 0.9], [0.5, 0.1]], dtype=torch.float64))
    sampled = torch.log(torch.tensor([[0.4, 0.3], [0.5, 0.4]], dtype=torch.float64))
    weights = compute_importance_weights(old, sampled, cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 2.0], [1.0, 0.25]], dtype=torch.float64))


@pytest.mark.parametrize(("level", "expected"), [("token", -(0.5 + 2.0 + 3 * 1.0)), ("turn", -(1.25 + 3 * 1.0))])
def test_stale_tokens_count_by_their_weights(level, expected):
    """At the old policy every ratio is 1: the loss is minus the sum of advantages (1 and 3) times weights."""
    logprobs = torch.full((2, 2), -1.0)
    mask = torch.tensor([[True, True], [True, False]])
    weights = torch.tensor([[0.5, 2.0], [1.0, 9.0]])
    loss = compute_policy_loss(logprobs, logprobs, torch.tensor([1.0, 3.0]), mask, 0.2, 0.2, level, weights)
    assert float(loss.loss_sum) == pytest.approx(expected)
    ones = compute_policy_loss(logprobs, logprobs, torch.tensor([1.0, 3.0]), mask, 0.2, 0.2, level, torch.ones(2, 2))
    none = compute_policy_loss(logprobs, logprobs, torch.tensor([1.0, 3.0]), mask, 0.2, 0.2, level)
    assert torch.equal(ones.loss_sum, none.loss_sum)
