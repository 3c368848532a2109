import gc
import weakref

import numpy as np
import pytest
import torch

from tests.tiny import TINY, make_observation, make_policy
from vlarl.errors import UserError
from vlarl.inference.base import PublishedWeights, sampling_noise
from vlarl.inference.local import LocalGenerator

K = TINY.num_action_tokens


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.stack([sampling_noise(seed, row, 0, K) for row in range(count)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_generator_and_learner_agree_on_logprobs_and_entropy(temperature):
    policy, observations = make_policy(), make_observation(7)
    result = LocalGenerator(policy, temperature).generate(observations, noise(7))
    logprobs, entropy = policy.token_logprobs(
        policy.trunk.process(observations), torch.from_numpy(result.action_tokens), temperature
    )
    assert np.abs(logprobs.detach().numpy() - result.logprobs).max() < 1e-4
    assert np.abs(entropy.detach().numpy() - result.entropy).max() < 1e-4


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_rounded_sizes_change_nothing(count):
    """On a GPU batches and prompts are padded to the sizes of recorded graphs; what fills them up is not seen."""
    policy = make_policy()
    exact, rounded = LocalGenerator(policy, 0.8), LocalGenerator(policy, 0.8, round_sizes=True)
    # A large batch first: its keys and values are what the smaller ones find in the padding.
    rounded.generate(make_observation(16, seed=1), noise(16, seed=1))
    for draws in (None, noise(count)):
        expected = exact.generate(make_observation(count), draws)
        result = rounded.generate(make_observation(count), draws)
        assert np.array_equal(result.action_tokens, expected.action_tokens)
        np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=1e-5)
        np.testing.assert_allclose(result.entropy, expected.entropy, atol=1e-5)


def test_a_generators_weights_go_with_it():
    """Fused copies of a large decoder must not wait for the garbage collector."""
    generator = LocalGenerator(make_policy(), 1.0)
    generator.generate(make_observation(2), None)
    fused = weakref.ref(generator._stepper)
    gc.disable()
    try:
        del generator
        assert fused() is None
    finally:
        gc.enable()


@pytest.mark.gpu
def test_graphs_repeat_what_the_cpu_decodes():
    on_cpu, on_gpu = make_policy(), make_policy().cuda()
    for count in (1, 5, 8, 5):
        expected = LocalGenerator(on_cpu, 0.8).generate(make_observation(count), noise(count))
        generator = LocalGenerator(on_gpu, 0.8)
        for _ in range(2):
            result = generator.generate(make_observation(count), noise(count))
            np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=1e-3)
            assert np.array_equal(result.action_tokens, expected.action_tokens)


def test_samples_follow_the_distribution():
    policy, count = make_policy(), 4000
    one = make_observation(1)
    observations = one.select(np.zeros(count, dtype=int))
    result = LocalGenerator(policy, 1.0).generate(observations, noise(count))
    logits = policy(policy.trunk.process(one), torch.from_numpy(result.action_tokens[:1]))
    expected = torch.softmax(logits[0, 0], -1).detach().numpy()
    seen = np.bincount(result.action_tokens[:, 0] - policy.trunk.first_token, minlength=TINY.num_bins) / count
    # Five standard errors of a binomial frequency.
    assert (np.abs(seen - expected) < 5 * np.sqrt(expected * (1 - expected) / count) + 1e-3).all()


def test_greedy_takes_the_largest_and_needs_no_noise():
    policy, observations = make_policy(), make_observation(5)
    result = LocalGenerator(policy, 0.6).generate(observations, None)
    logits = policy(policy.trunk.process(observations), torch.from_numpy(result.action_tokens))
    assert np.array_equal(logits.argmax(-1).numpy() + policy.trunk.first_token, result.action_tokens)


def test_a_row_does_not_depend_on_the_batch():
    policy, observations = make_policy(), make_observation(6)
    generator = LocalGenerator(policy, 1.0)
    together = generator.generate(observations, noise(6))
    for row in range(6):
        index = np.array([row])
        alone = generator.generate(observations.select(index), noise(6)[index])
        assert np.array_equal(alone.action_tokens[0], together.action_tokens[row])


def test_actions_are_the_decoded_tokens():
    policy = make_policy()
    result = LocalGenerator(policy, 1.0).generate(make_observation(3), noise(3))
    assert result.actions.shape == (3, TINY.action_horizon, TINY.action_dim)
    assert np.array_equal(result.actions, policy.decode_actions(result.action_tokens))


def test_load_takes_new_weights():
    policy, observations = make_policy(0), make_observation(4)
    generator = LocalGenerator(make_policy(1), 1.0)
    generator.load(PublishedWeights(version=3, policy=policy))
    assert generator.policy_version == 3
    expected = LocalGenerator(policy, 1.0).generate(observations, noise(4))
    assert np.array_equal(generator.generate(observations, noise(4)).action_tokens, expected.action_tokens)


def test_weights_changed_in_place_are_published_by_load():
    policy, observations = make_policy(0), make_observation(4)
    generator = LocalGenerator(policy, 1.0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    generator.load(PublishedWeights(version=1, policy=policy))
    result = generator.generate(observations, noise(4))
    logprobs, _ = policy.token_logprobs(policy.trunk.process(observations), torch.from_numpy(result.action_tokens), 1.0)
    assert np.abs(logprobs.detach().numpy() - result.logprobs).max() < 1e-4


def test_noise_is_a_function_of_seed_trajectory_and_turn():
    base = sampling_noise(1, 2, 3, K)
    assert np.array_equal(base, sampling_noise(1, 2, 3, K))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not np.array_equal(base, sampling_noise(*other, K))
    assert ((base >= 0) & (base < 1)).all()


def test_temperature_zero_is_refused():
    with pytest.raises(UserError, match="must be positive"):
        LocalGenerator(make_policy(), 0.0)
