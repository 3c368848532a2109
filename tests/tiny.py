"""A policy small enough for unit tests, and inputs for it."""

import numpy as np
import torch

from vlarl.configs.policy import PolicyConfig
from vlarl.policies import tiny
from vlarl.policies.vla import VLAPolicy
from vlarl.types import Observation

TINY = PolicyConfig(
    image_size=16,
    vision_channels=(8, 16),
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=2,
    max_instruction_tokens=12,
    proprio_dim=3,
    action_dim=2,
    action_horizon=2,
    num_bins=16,
)
INSTRUCTIONS = ("put the bowl on the plate", "turn on the stove", "open the top drawer and put the bowl inside")


def make_policy(seed: int = 0, config: PolicyConfig = TINY) -> VLAPolicy:
    policy = tiny.make_policy(config, seed)
    # Fresh heads are almost uniform; sharper ones make disagreements visible.
    with torch.no_grad():
        policy.trunk.head.lm_head.weight.mul_(20)
    return policy.eval()


def make_observation(count: int, seed: int = 0, config: PolicyConfig = TINY) -> Observation:
    rng = np.random.default_rng(seed)
    return Observation(
        images=rng.integers(0, 256, (count, config.image_size, config.image_size, 3), dtype=np.uint8),
        proprio=rng.normal(size=(count, config.proprio_dim)).astype(np.float32),
        instructions=tuple(INSTRUCTIONS[i % 3] for i in range(count)),
    )


def random_tokens(policy: VLAPolicy, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, policy.config.num_action_tokens)
    return policy.trunk.first_token + torch.randint(0, policy.config.num_bins, shape, generator=generator)
