"""The published checkpoints through VLAPolicy, the generator and the learner's log-probs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.openvla_fixture import OWN, PUBLISHED, Reference
from vlarl.configs.openvla import LoRAConfig, OpenVLAPolicyConfig
from vlarl.errors import UserError
from vlarl.inference.local import LocalGenerator
from vlarl.policies.checkpoint import load_policy, save_policy, trained_state
from vlarl.policies.openvla.checkpoint import load_model, open_checkpoint
from vlarl.policies.openvla.lora import load_adapter
from vlarl.policies.openvla.policy import OpenVLAPolicy, check_policy, count_trained_parameters, make_policy
from vlarl.policies.value import make_value_network
from vlarl.policies.vla import copy_trained
from vlarl.types import Observation

REFERENCE = Reference("published", PUBLISHED) if (PUBLISHED / "checkpoint").is_dir() else Reference("own", OWN)
CHECKPOINT = REFERENCE.checkpoint
SOURCE = open_checkpoint(CHECKPOINT)
# A data set whose gripper entry is not normalised, as in LIBERO's.
UNMASKED = [k for k, v in SOURCE.norm_stats.items() if not v["action"].get("mask", [True])[-1]]
KEY = (UNMASKED or list(SOURCE.norm_stats))[0]
END = SOURCE.config.action_vocab_size
PLAIN = {"libero_frames": False, "unnorm_key": KEY}
LORA = LoRAConfig(rank=4, alpha=8)


@pytest.fixture(scope="module")
def policy() -> OpenVLAPolicy:
    return OpenVLAPolicy.from_pretrained(CHECKPOINT, **PLAIN)


def adapted(seed: int = 0, **settings) -> OpenVLAPolicy:
    """A policy whose adapters do something."""
    config = OpenVLAPolicyConfig(**{"checkpoint": str(CHECKPOINT), "lora": LORA} | PLAIN | settings)
    result = make_policy(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return result


def libero_observation(count: int, seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    tasks = ("open the drawer", "put the wine bottle on the top of the cabinet", "turn on the stove")
    return Observation(
        images=rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8),
        proprio=rng.normal(size=(count, 12)).astype(np.float32),
        instructions=tuple(tasks[i % 3] for i in range(count)),
    )


def noise_for(policy, count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, policy.config.num_action_tokens))


def test_generation_through_observations(policy):
    """From pictures and instructions to actions in the environment's units."""
    for case in REFERENCE.cases():
        observation = Observation(
            images=REFERENCE.image(case.picture)[None],
            proprio=np.zeros((1, 12), np.float32),
            instructions=(REFERENCE.prompts["tasks"][case.task],),
        )
        result = LocalGenerator(policy, 1.0).generate(observation, None)
        assert np.array_equal(result.action_tokens[0], REFERENCE.model_cases[f"c{case.index}_gen_tokens"])
        np.testing.assert_allclose(
            result.actions[0, 0], REFERENCE.model_cases[f"c{case.index}_action__{KEY}"], atol=1e-6
        )


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("action_tokens_only", [False, True])
def test_generated_logprobs_are_the_learners(policy, lora, action_tokens_only):
    settings = PLAIN | {"action_tokens_only": action_tokens_only}
    chosen = adapted(**settings) if lora else OpenVLAPolicy.from_pretrained(CHECKPOINT, **settings)
    observations = libero_observation(5)
    result = LocalGenerator(chosen, 1.6).generate(observations, noise_for(chosen, 5))
    tokens = torch.from_numpy(result.action_tokens)
    with torch.no_grad():
        logprobs, entropy = chosen.token_logprobs(chosen.trunk.process(observations), tokens, 1.6)
    np.testing.assert_allclose(result.logprobs, logprobs, atol=1e-4)
    np.testing.assert_allclose(result.entropy, entropy, atol=1e-3)
    if action_tokens_only:
        assert result.action_tokens.min() >= END - 256 and result.action_tokens.max() < END
    else:
        assert result.action_tokens.min() < END - 256, "a random model's tokens lie anywhere in the vocabulary"


def test_adapters_change_what_is_generated(policy):
    observations = libero_observation(2)
    plain = LocalGenerator(policy, 1.0).generate(observations, None)
    changed = LocalGenerator(adapted(), 1.0).generate(observations, None)
    assert np.abs(plain.logprobs - changed.logprobs).max() > 1e-2


def test_a_row_does_not_depend_on_the_length_of_its_neighbours_prompts(policy):
    observations = libero_observation(3)
    together = LocalGenerator(policy, 1.0).generate(observations, None)
    for row in range(3):
        alone = LocalGenerator(policy, 1.0).generate(observations.select(np.array([row])), None)
        assert np.array_equal(alone.action_tokens[0], together.action_tokens[row])
        np.testing.assert_allclose(alone.logprobs[0], together.logprobs[row], atol=1e-4)


def test_fresh_adapters_change_nothing_and_are_all_that_is_trained(policy):
    fresh = make_policy(OpenVLAPolicyConfig(checkpoint=str(CHECKPOINT), lora=LORA, **PLAIN))
    observations, tokens = libero_observation(2), torch.full((2, 7), END - 200)
    with torch.no_grad():
        before = policy(policy.trunk.process(observations), tokens)
        after = fresh(fresh.trunk.process(observations), tokens)
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
    trained = [name for name, p in fresh.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    count = sum(p.numel() for p in fresh.parameters() if p.requires_grad)
    assert count_trained_parameters(fresh.config) == count


def test_policy_folder_holds_the_adapters_only(tmp_path):
    policy = adapted()
    save_policy(policy, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.config == policy.config
    for name, tensor in trained_state(policy).items():
        assert torch.equal(tensor, trained_state(loaded)[name]), name
    assert all("lora_" in name for name in trained_state(policy))


def test_merged_export_is_a_published_checkpoint_with_the_same_logits(tmp_path):
    policy = adapted()
    policy.export(tmp_path / "merged")
    merged = load_policy(tmp_path / "merged", unnorm_key=KEY)
    merged.trunk.config = replace(merged.trunk.config, libero_frames=False)
    observations, tokens = libero_observation(2), torch.full((2, 7), END - 200)
    with torch.no_grad():
        before = policy(policy.trunk.process(observations), tokens)
        after = merged(merged.trunk.process(observations), tokens)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=0)
    assert any("lora_" in name for name, _ in policy.named_parameters()), "exporting leaves the policy as it was"


def test_exported_adapter_is_pefts(tmp_path):
    policy = adapted()
    policy.export(tmp_path / "adapter", merge_adapter=False)
    source = open_checkpoint(CHECKPOINT)
    loaded = load_adapter(load_model(source, dtype=torch.float32), tmp_path / "adapter")
    inputs = policy.trunk.process(libero_observation(2))
    with torch.no_grad():
        mine, _ = policy.trunk.embed_prompt(inputs)
        pixels = policy.trunk.processor.normalize(inputs.images)
        theirs, _ = loaded.get_base_model().embed_prompt(pixels, inputs.instruction_ids, inputs.instruction_mask)
    torch.testing.assert_close(mine, theirs)
    with pytest.raises(UserError, match="has no adapter"):
        OpenVLAPolicy.from_pretrained(CHECKPOINT, **PLAIN).export(tmp_path / "none", merge_adapter=False)


@pytest.mark.parametrize(("kind", "shared", "trained"), [("homogeneous", True, "lora_"), ("frozen", True, "head.")])
def test_value_networks_share_what_is_frozen(kind, shared, trained):
    policy = adapted()
    value = make_value_network(policy, kind)
    inputs = policy.trunk.process(libero_observation(3))
    assert torch.equal(value(inputs, torch.zeros(3)), torch.zeros(3))
    mine, theirs = policy.trunk.decoder.embed_tokens, value.trunk.decoder.embed_tokens
    assert (mine.weight.data_ptr() == theirs.weight.data_ptr()) == shared
    names = [name for name, p in value.named_parameters() if p.requires_grad]
    assert all(trained in name or name.startswith("head.") for name in names) and names
    lora = {p.data_ptr() for name, p in policy.named_parameters() if "lora_" in name}
    assert not lora & {p.data_ptr() for p in value.parameters()}, "the value network has adapters of its own"


def test_a_small_value_network_reads_the_same_inputs():
    policy = adapted()
    value = make_value_network(policy, "small")
    assert sum(p.numel() for p in value.trunk.decoder.layers.parameters()) < 100_000
    inputs = policy.trunk.process(libero_observation(3))
    value(inputs, torch.zeros(3)).sum().backward()
    assert value.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_changes_no_gradient(checkpointing):
    observations, tokens = libero_observation(2), torch.full((2, 7), END - 200)
    gradients = []
    for enabled in (False, checkpointing):
        policy = adapted(gradient_checkpointing=enabled).train()
        logprobs, _ = policy.token_logprobs(policy.trunk.process(observations), tokens, 1.0)
        logprobs.sum().backward()
        gradients.append({n: p.grad for n, p in policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.skipif(not UNMASKED, reason="all statistics of the checkpoint normalise the gripper")
def test_actions_survive_the_tokens():
    policy = OpenVLAPolicy.from_pretrained(CHECKPOINT, unnorm_key=KEY)
    statistics = policy.codec.statistics
    rng = np.random.default_rng(0)
    actions = rng.uniform(statistics.q01, statistics.q99, size=(50, 1, 7))
    actions[..., -1] = rng.choice([-1.0, 1.0], size=(50, 1))
    decoded = policy.decode_actions(policy.encode_actions(actions))
    span = statistics.q99 - statistics.q01
    assert (np.abs(decoded - actions)[..., :-1] <= 0.51 * span[:-1] / 255 + 1e-6).all()
    assert np.array_equal(decoded[..., -1], actions[..., -1]), "LIBERO's gripper: -1 open, 1 closed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unnorm_key": "nothing"}, "unnorm_key"),
        ({"unnorm_key": ""}, "name one as policy.unnorm_key"),
        ({"action_dim": 6}, "of 7 action entries, policy.action_dim is 6"),
        ({"checkpoint": "nowhere/at/all"}, "no checkpoint folder"),
    ],
)
def test_wrong_settings_are_named_before_weights_are_read(changes, message):
    if changes == {"unnorm_key": ""} and len(SOURCE.norm_stats) == 1:
        pytest.skip("the only statistics need no name")
    config = replace(OpenVLAPolicyConfig(checkpoint=str(CHECKPOINT), **PLAIN), **changes)
    with pytest.raises(UserError, match=message):
        check_policy(config, {0: "open the drawer"}, 7, 12)


def test_an_instruction_that_leaves_no_room_in_the_context_is_named_before_weights_are_read():
    config = OpenVLAPolicyConfig(checkpoint=str(CHECKPOINT), **PLAIN)
    room = 2048 - SOURCE.config.num_patches - 7
    with pytest.raises(UserError, match=f"at most {room} fit into the context"):
        check_policy(config, {0: "bowl " * 2100}, 7, 12)


def test_a_gpu_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = OpenVLAPolicyConfig(checkpoint=str(CHECKPOINT), device="cuda", **PLAIN)
    with pytest.raises(UserError, match="torch sees no GPU"):
        check_policy(config, {0: "open the drawer"}, 7, 12)


def test_wrong_observations_are_named(policy):
    good = libero_observation(1)
    nan = np.full(good.images.shape, np.nan, np.float32)
    for images, message in (
        (good.images.astype(np.float32), r"must be uint8 \[B, H, W, 3\], got float32 \[1, 64, 64, 3\]$"),
        (good.images[..., :1], r"got uint8 \[1, 64, 64, 1\]"),
        (nan, "with NaN in it"),
    ):
        with pytest.raises(UserError, match=message):
            policy.trunk.process(replace(good, images=images))
    with pytest.raises(UserError, match="instruction is empty"):
        policy.trunk.process(replace(good, instructions=(" ",)))


def test_copies_share_the_frozen_weights():
    first = adapted()
    second = copy_trained(first)
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    for (name, mine), (_, theirs) in pairs:
        assert (mine is theirs) == (not mine.requires_grad), name
