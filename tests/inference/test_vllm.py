"""vLLM's generator against the policy's own log-probs. One engine, in the process of this file's tests."""

import numpy as np
import pytest
import torch

from tests.tiny import make_policy
from vlarl.configs.openvla import OpenVLAConfig, OpenVLAPolicyConfig, VisionTowerConfig
from vlarl.errors import UserError
from vlarl.inference import vllm as module
from vlarl.inference.base import PublishedWeights
from vlarl.inference.vllm import VllmGenerator
from vlarl.policies.openvla.random_weights import make_random_model, make_random_policy, random_inputs

SIZES = OpenVLAConfig(
    dino=VisionTowerConfig(width=48, depth=2, num_heads=4, mlp_width=96),
    siglip=VisionTowerConfig(width=64, depth=2, num_heads=4, mlp_width=128, num_registers=0),
    text={
        "vocab_size": 2112,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
)
"""Heads of 32 channels, the fewest that vLLM's attention takes on a CPU. Prompts of 256 patches: its prefix cache holds
whole blocks only, of 128 positions there."""
TEMPERATURE = 1.5


def test_without_vllm_the_install_line_is_named(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'vlarl\[vllm\]'"):
        VllmGenerator(make_policy(), 1.0)


def test_a_policy_that_vllm_cannot_serve_is_refused(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    with pytest.raises(UserError, match="--roles.generator local"):
        VllmGenerator(make_policy(), 1.0)


def random_policy(seed: int):
    torch.manual_seed(seed)
    config = OpenVLAPolicyConfig(lora=None, libero_frames=False, action_tokens_only=True)
    return make_random_policy(make_random_model(SIZES, device="cpu", dtype=torch.float32), config).eval()


@pytest.fixture(scope="module")
def policy():
    pytest.importorskip("vllm", reason="needs vlarl[vllm]")
    return random_policy(0)


@pytest.fixture(scope="module")
def generator(policy):
    generator = VllmGenerator(policy, TEMPERATURE)
    generator.load(PublishedWeights(version=3, policy=policy))
    return generator


def prompts(policy, count=6):
    with torch.no_grad():
        embeddings, mask = policy.trunk.embed_prompt(random_inputs(SIZES, count, 12))
    return [row[real] for row, real in zip(embeddings, mask, strict=True)]


def difference(policy, generator, noise) -> float:
    """Largest distance of vLLM's log-probs from the policy's own."""
    tokens, logprobs = generator.decode(prompts(policy, len(noise)), noise)
    with torch.no_grad():
        inputs = random_inputs(SIZES, len(noise), 12)
        ours, _ = policy.token_logprobs(inputs, torch.from_numpy(tokens), TEMPERATURE)
    return float((ours - torch.from_numpy(logprobs)).abs().max())


@pytest.mark.slow
def test_logprobs_are_the_policys(policy, generator):
    noise = np.random.default_rng(0).random((6, 7))
    assert generator.policy_version == 3
    assert difference(policy, generator, noise) < 1e-4
    tokens, logprobs = generator.decode(prompts(policy), noise)
    again, _ = generator.decode(prompts(policy)[::-1], noise[::-1])
    np.testing.assert_array_equal(tokens, again[::-1])
    assert tokens.min() >= policy.trunk.first_token and tokens.max() < policy.trunk.end_token
    assert len(np.unique(tokens[:, 0])) > 1
    greedy, _ = generator.decode(prompts(policy), None)
    with torch.no_grad():
        logits = policy(random_inputs(SIZES, 6, 12), torch.from_numpy(greedy))
    np.testing.assert_array_equal(greedy, policy.trunk.first_token + logits.argmax(-1).numpy())


@pytest.mark.slow
def test_a_new_version_forgets_old_keys_and_values(policy, generator, monkeypatch):
    noise = np.random.default_rng(1).random((6, 7))
    other = random_policy(1)
    # The vision part is the old one's, so that the prompts are those in the cache.
    other.trunk.openvla.vision_backbone.load_state_dict(policy.trunk.openvla.vision_backbone.state_dict())
    other.trunk.openvla.projector.load_state_dict(policy.trunk.openvla.projector.state_dict())
    other.trunk.decoder.embed_tokens.load_state_dict(policy.trunk.decoder.embed_tokens.state_dict())
    assert difference(policy, generator, noise) < 1e-4
    with monkeypatch.context() as patch:
        patch.setattr(generator._engine, "reset_prefix_cache", lambda: True)
        generator.load(PublishedWeights(version=4, policy=other))
    stale = difference(other, generator, noise)
    generator.load(PublishedWeights(version=5, policy=other))
    assert difference(other, generator, noise) < 1e-4 < stale
    generator.load(PublishedWeights(version=6, policy=policy))
    assert difference(policy, generator, noise) < 1e-4


@pytest.mark.slow
def test_what_the_engine_would_hang_on_is_refused_before(policy, generator):
    good = prompts(policy, 1)[0]
    noise = np.random.default_rng(2).random((1, 7))
    for wrong, message in (
        (good[:, :64], r"\[1 to 505, 128\] for this policy, got"),
        (good.double(), "torch.float32 for this policy, got torch.float64"),
        (good.repeat(2, 1), "1 to 505"),
        (good[:0], "1 to 505"),
    ):
        with pytest.raises(ValueError, match=message):
            generator.decode([wrong], noise)
    assert difference(policy, generator, noise) < 1e-4


@pytest.mark.slow
def test_an_engine_that_raised_is_started_again(policy, generator, monkeypatch):
    noise = np.random.default_rng(3).random((2, 7))
    broken = generator._engine

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(broken, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generator.decode(prompts(policy, 2), noise)
    assert difference(policy, generator, noise) < 1e-4
    assert generator._engine is not broken
