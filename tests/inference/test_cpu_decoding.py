"""The compiled parts of decoding against torch's operations."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from vlarl.inference import cpu_decoding
from vlarl.inference.cpu_decoding import CpuStepper, choose_on_cpu
from vlarl.inference.llama_decoding import LlamaStepper
from vlarl.inference.local import choose


def test_exponentials_are_exact_to_two_units_in_the_last_place():
    x = np.concatenate([np.linspace(-87, 88, 100_001), [0.0, -0.0]]).astype(np.float32)
    expected = np.exp(x.astype(np.float64))
    cpu_decoding._exponentiate(x, np.empty(len(x), np.int32))
    assert np.abs(x / expected - 1).max() < 2.4e-7


def test_exponentials_of_padding_are_almost_nothing():
    x = np.array([np.finfo(np.float32).min, -200.0], dtype=np.float32)
    cpu_decoding._exponentiate(x, np.empty(2, np.int32))
    assert (x < 1e-36).all()
    assert (x >= 0).all()


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2)])
def test_steps_are_those_of_torch(heads, groups):
    torch.manual_seed(0)
    decoder = LlamaModel(
        LlamaConfig(
            vocab_size=8, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=heads,
            num_key_value_heads=groups, max_position_embeddings=32,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    inputs, prompt = torch.randn(6, 3, 32), torch.randn(3, 32)
    keys_values = torch.randn(2, 2, 3, groups, 11, 32 // heads)
    # Padding: rows of 5, 4 and 2 real positions.
    mask = torch.arange(5) < torch.tensor([[5], [4], [2]])
    hidden = {}
    for kind in (LlamaStepper, CpuStepper):
        stepper = kind(decoder)
        turn, _ = stepper.make_turn(3, 5, 6)
        for layer, caches in enumerate(turn.caches):
            for cache, values in zip(caches, keys_values[layer], strict=True):
                cache.copy_(values)
        with torch.no_grad():
            stepper.begin(turn, prompt, mask)
            hidden[kind] = torch.stack([stepper.step(turn, inputs[index], index) for index in range(6)])
    assert hidden[CpuStepper].std() > 0.1
    torch.testing.assert_close(hidden[CpuStepper], hidden[LlamaStepper], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("is_greedy", [True, False])
def test_choices_are_those_of_torch(is_greedy):
    torch.manual_seed(0)
    logits, uniform = 4 * torch.randn(500, 33), torch.rand(500)
    expected = choose(logits, 0.7, None if is_greedy else uniform)
    result = choose_on_cpu(logits, 0.7, None if is_greedy else uniform)
    # A draw may lie within a rounding error of the border between two tokens.
    assert (result[0] == expected[0]).float().mean() > 0.995
    same = result[0] == expected[0]
    torch.testing.assert_close(result[1][same], expected[1][same], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result[2], expected[2], atol=1e-5, rtol=1e-5)


def test_a_draw_picks_by_cumulative_probability():
    """Probabilities 0.25, 0, 0.5, 0.25: hand arithmetic, close to the borders."""
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25]).log().expand(6, 4).contiguous()
    uniform = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-24])
    chosen, logprobs, entropy = choose_on_cpu(logits.clamp_min(-80), 1.0, uniform)
    assert chosen.tolist() == [0, 0, 2, 2, 3, 3]
    np.testing.assert_allclose(logprobs.exp().numpy(), [0.25, 0.25, 0.5, 0.5, 0.25, 0.25], rtol=1e-6)
    np.testing.assert_allclose(entropy.numpy(), 1.5 * np.log(2), rtol=1e-6)


def test_masked_tokens_have_no_part_in_the_entropy():
    _, _, entropy = choose_on_cpu(torch.tensor([[0.0, 0.0, torch.finfo(torch.float32).min]]), 1.0, None)
    assert entropy.item() == pytest.approx(np.log(2), rel=1e-6)


def test_numbers_that_are_not_finite_choose_a_token_all_the_same():
    """The learner's checks stop such a run; decoding must not leave its arrays before that."""
    chosen, logprobs, _ = choose_on_cpu(torch.full((2, 5), torch.nan), 1.0, torch.tensor([0.0, 0.9]))
    assert ((chosen >= 0) & (chosen < 5)).all()
    assert logprobs.isnan().all()
