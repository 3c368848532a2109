from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import INSTRUCTIONS, TINY, make_observation, make_policy, random_tokens
from vlarl.configs.policy import PolicyConfig
from vlarl.errors import UserError
from vlarl.policies.checkpoint import load_policy, save_policy
from vlarl.policies.value import make_value_network
from vlarl.types import Observation


def test_default_policy_keeps_the_limits_of_two_cores():
    config = PolicyConfig()
    policy = make_policy(config=config)
    embedding = policy.trunk.decoder.embed_tokens.weight.numel()
    assert sum(p.numel() for p in policy.trunk.decoder.parameters()) <= 1_000_000
    assert embedding == (512 + 256) * 128
    assert config.num_image_tokens <= 32
    assert config.num_prompt_tokens + config.num_action_tokens <= 90


def test_a_row_does_not_depend_on_its_neighbours_or_their_padding():
    policy = make_policy()
    observations, tokens = make_observation(6), random_tokens(policy, 6)
    together = policy(policy.trunk.process(observations), tokens)
    for row in range(6):
        alone = policy(policy.trunk.process(observations.select(np.array([row]))), tokens[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


def test_logits_see_earlier_tokens_only():
    policy = make_policy()
    inputs, tokens = policy.trunk.process(make_observation(2)), random_tokens(policy, 2)
    changed = tokens.clone()
    changed[:, 2] = policy.trunk.first_token + (changed[:, 2] - policy.trunk.first_token + 1) % TINY.num_bins
    before, after = policy(inputs, tokens), policy(inputs, changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3] - after[:, 3]).abs().max() > 1e-3


@pytest.mark.parametrize("what", ["image", "instruction", "proprio"])
def test_every_part_of_the_observation_matters(what):
    policy = make_policy()
    one, two = make_observation(1, seed=0), make_observation(1, seed=1)
    mixed = Observation(
        images=two.images if what == "image" else one.images,
        proprio=two.proprio if what == "proprio" else one.proprio,
        instructions=(INSTRUCTIONS[1],) if what == "instruction" else one.instructions,
    )
    tokens = random_tokens(policy, 1)
    difference = policy(policy.trunk.process(one), tokens) - policy(policy.trunk.process(mixed), tokens)
    assert difference.abs().max() > 1e-3


def test_proprioception_that_is_not_read_changes_nothing():
    config = replace(TINY, proprio_entries=(1,))
    policy = make_policy(config=config)
    inputs, tokens = policy.trunk.process(make_observation(1)), random_tokens(policy, 1)
    moved = [replace(inputs, proprio=inputs.proprio + torch.eye(3)[[entry]]) for entry in range(3)]
    differences = [(policy(other, tokens) - policy(inputs, tokens)).abs().max() for other in moved]
    assert differences[0] == 0 and differences[2] == 0 and differences[1] > 1e-3


def test_entropy_and_logprobs_of_a_known_head():
    policy = make_policy()
    with torch.no_grad():
        policy.trunk.head.lm_head.weight.zero_()
        policy.trunk.head.lm_head.bias.zero_()
        policy.trunk.head.lm_head.bias[3] = 2.0
    inputs = policy.trunk.process(make_observation(1))
    tokens = torch.full((1, 4), policy.trunk.first_token + 3)
    logprobs, entropy = policy.token_logprobs(inputs, tokens, temperature=0.5)
    # Logit 2 at temperature 0.5 is 4; fifteen others are 0.
    p = np.exp(4) / (np.exp(4) + 15)
    q = 1 / (np.exp(4) + 15)
    np.testing.assert_allclose(logprobs.detach().numpy(), np.log(p), rtol=1e-5)
    np.testing.assert_allclose(entropy.detach().numpy(), -(p * np.log(p) + 15 * q * np.log(q)), rtol=1e-5)


def test_value_network_starts_at_zero_with_the_policys_trunk_and_own_parameters():
    policy = make_policy()
    value = make_value_network(policy)
    inputs = policy.trunk.process(make_observation(3))
    elapsed = torch.tensor([0, 8, 80])
    assert torch.equal(value(inputs, elapsed), torch.zeros(3))
    assert torch.equal(value.trunk.projector.weight, policy.trunk.projector.weight)
    assert value.trunk.projector.weight.data_ptr() != policy.trunk.projector.weight.data_ptr()


def test_value_is_linear_in_the_elapsed_time():
    value = make_value_network(make_policy())
    with torch.no_grad():
        value.head.bias.copy_(torch.tensor([0.7, -0.5]))
    inputs = make_policy().trunk.process(make_observation(3))
    torch.testing.assert_close(value(inputs, torch.tensor([0, 50, 100])), torch.tensor([0.7, 0.45, 0.2]))


def test_policy_folder_round_trip_and_its_errors(tmp_path):
    policy = make_policy()
    save_policy(policy, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.config == TINY
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    with pytest.raises(UserError, match="no policy at"):
        load_policy(tmp_path / "elsewhere")
    weights = tmp_path / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        load_policy(tmp_path / "policy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((1, 8, 8, 3), np.uint8)}, "uint8 images of shape"),
        ({"proprio": np.zeros((1, 2), np.float32)}, "3 proprioception entries"),
        ({"proprio": np.full((1, 3), np.nan, np.float32)}, "not finite"),
        ({"instructions": ("",)}, "instruction is empty"),
        ({"instructions": ("put " * 40,)}, "raise policy.max_instruction_tokens"),
    ],
)
def test_wrong_observations_are_refused(change, message):
    one = make_observation(1)
    fields = {"images": one.images, "proprio": one.proprio, "instructions": one.instructions} | change
    with pytest.raises(UserError, match=message):
        make_policy().trunk.process(Observation(**fields))


@pytest.mark.parametrize("entries", [(), (0, 0), (3,), (-1, 0)])
def test_impossible_proprio_entries_are_refused(entries):
    with pytest.raises(UserError, match="proprio_entries must name different entries from 0 to 2"):
        replace(TINY, proprio_entries=entries)
