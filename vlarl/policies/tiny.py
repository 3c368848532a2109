"""The tiny VLA for two CPU cores: convolutions in place of vision transformers, a small vocabulary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from vlarl.actions.codec import ActionCodec
from vlarl.actions.tokenizer import ActionTokenizer
from vlarl.configs.policy import PolicyConfig
from vlarl.errors import UserError
from vlarl.policies.text import VOCAB_SIZE, encode_instructions
from vlarl.policies.vla import PolicyInputs, VLAPolicy, VLATrunk
from vlarl.types import Observation

SMALL = {"hidden_size": 64, "intermediate_size": 172, "num_layers": 1, "num_heads": 2}
"""Decoder of a small value network."""


class ConvBackbone(nn.Module):
    """Stride-2 convolutions; the cells of the last feature map are the image tokens."""

    def __init__(self, channels: Sequence[int], num_tokens: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(zip((3, *channels[:-1]), channels, strict=True)):
            kernel = 4 if index == 0 else 3
            layers += [nn.Conv2d(inputs, outputs, kernel, stride=2, padding=1), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(channels[-1])
        self.position = nn.Parameter(0.02 * torch.randn(num_tokens, channels[-1]))
        self.side = math.isqrt(num_tokens) * 2 ** len(channels)

    def forward(self, images: Tensor) -> Tensor:
        """[B, H, H, 3] uint8, averaged down where H is not `side` -> [B, num_tokens, channels[-1]]."""
        pixels = images.permute(0, 3, 1, 2).to(self.position.dtype) / 127.5 - 1.0
        if pixels.shape[-1] != self.side:
            pixels = nn.functional.interpolate(pixels, size=self.side, mode="area")
        return self.norm(self.layers(pixels).flatten(2).transpose(1, 2)) + self.position


class ActionHead(nn.Module):
    """Scores of the action tokens, and what tells the decoder which of them comes next."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        # One vector per (action, dimension); without them a tiny decoder must count positions.
        self.slots = nn.Parameter(0.02 * torch.randn(config.num_action_tokens, config.hidden_size))
        self.lm_head = nn.Linear(config.hidden_size, config.num_bins, bias=True)


class TinyTrunk(VLATrunk):
    """Prompt `[image tokens][instruction tokens][proprioception token]`."""

    def __init__(self, config: PolicyConfig, text_vocab_size: int = VOCAB_SIZE) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.vision = ConvBackbone(config.vision_channels, config.num_image_tokens)
        self.projector = nn.Linear(config.vision_channels[-1], width)
        self.proprio_entries = list(config.proprio_entries or range(config.proprio_dim))
        read = len(self.proprio_entries)
        self.proprio = nn.Sequential(nn.Linear(read, width), nn.GELU(), nn.Linear(width, width))
        self.register_buffer("proprio_mean", torch.zeros(config.proprio_dim))
        self.register_buffer("proprio_std", torch.ones(config.proprio_dim))
        self.first_token = text_vocab_size
        self.llama = LlamaModel(
            LlamaConfig(
                vocab_size=text_vocab_size + config.num_bins,
                hidden_size=width,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_heads,
                max_position_embeddings=config.num_prompt_tokens + config.num_action_tokens,
                attn_implementation="sdpa",
                pad_token_id=0,
            )
        )
        self.head: ActionHead | None = ActionHead(config)

    @property
    def decoder(self) -> LlamaModel:
        """See VLATrunk."""
        return self.llama

    def set_proprio_statistics(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Sets the standardisation of proprioception, both [P]; a tiny std is raised to 1 % of the largest."""
        floor = max(0.01 * float(np.max(std)), 1e-4)
        self.proprio_mean.copy_(torch.from_numpy(np.asarray(mean, dtype=np.float32)))
        self.proprio_std.copy_(torch.from_numpy(np.maximum(std, floor).astype(np.float32)))

    def fit_statistics(self, observations: Observation) -> None:
        """See VLATrunk; standardises proprioception."""
        self.set_proprio_statistics(observations.proprio.mean(0), observations.proprio.std(0))

    def process(self, observations: Observation) -> PolicyInputs:
        """See VLATrunk."""
        config = self.config
        expected = (config.image_size, config.image_size, 3)
        if observations.images.shape[1:] != expected or observations.images.dtype != np.uint8:
            raise UserError(
                f"the policy takes uint8 images of shape {expected}, got {observations.images.dtype}"
                f" {observations.images.shape[1:]}: set env.image_size to {config.image_size}"
            )
        if observations.proprio.shape[1:] != (config.proprio_dim,):
            raise UserError(
                f"the policy takes {config.proprio_dim} proprioception entries, got {observations.proprio.shape[1:]}"
            )
        if not np.isfinite(observations.proprio).all():
            raise UserError("the proprioception vector holds a value that is not finite")
        ids, mask = encode_instructions(observations.instructions, config.max_instruction_tokens)
        return PolicyInputs(
            images=torch.from_numpy(observations.images),
            proprio=torch.from_numpy(observations.proprio.astype(np.float32, copy=False)),
            instruction_ids=torch.from_numpy(ids),
            instruction_mask=torch.from_numpy(mask),
        )

    def embed_prompt(self, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """See VLATrunk."""
        images = self.projector(self.vision(inputs.images))
        text = self.llama.embed_tokens(inputs.instruction_ids)
        standardised = (inputs.proprio - self.proprio_mean) / self.proprio_std
        # Statistics are float32 where the weights may not be.
        proprio = self.proprio(standardised[:, self.proprio_entries].to(images.dtype)).unsqueeze(1)
        if self.head is not None:
            proprio = proprio + self.head.slots[0]
        real = torch.ones_like(inputs.instruction_mask[:, :1])
        mask = torch.cat([real.expand(-1, images.shape[1]), inputs.instruction_mask, real], dim=1)
        return torch.cat([images, text, proprio], dim=1), mask

    def embed_actions(self, action_tokens: Tensor, first: int = 0) -> Tensor:
        """See VLATrunk; each embedding carries the slot of the token that it predicts."""
        assert self.head is not None, "a value network embeds no actions"
        slots = self.head.slots[first + 1 : first + 1 + action_tokens.shape[1]]
        return self.llama.embed_tokens(action_tokens) + slots

    def logits(self, hidden: Tensor) -> Tensor:
        """See VLATrunk."""
        assert self.head is not None, "a value network scores no tokens"
        return self.head.lm_head(hidden)

    def remove_head(self) -> None:
        """See VLATrunk."""
        self.head = None

    def small_value_trunk(self) -> VLATrunk:
        """See VLATrunk."""
        trunk = TinyTrunk(replace(self.config, **SMALL))
        trunk.set_proprio_statistics(self.proprio_mean.numpy(), self.proprio_std.numpy())
        return trunk


def make_policy(config: PolicyConfig, seed: int = 0) -> VLAPolicy:
    """Returns a fresh policy; its weights follow from the seed."""
    torch.manual_seed(seed)
    trunk = TinyTrunk(config)
    tokenizer = ActionTokenizer(trunk.first_token + config.num_bins, config.num_bins)
    return VLAPolicy(config, trunk, ActionCodec(tokenizer, config.action_horizon, config.action_dim))


def check_policy(config: PolicyConfig, instructions: Mapping[int, str], action_dim: int, proprio_dim: int) -> None:
    """Checks that the policy fits an environment with these instructions and vectors.

    Raises:
        UserError: other dimensions, or an instruction that is too long.
    """
    for name, value in (("action_dim", action_dim), ("proprio_dim", proprio_dim)):
        if getattr(config, name) != value:
            raise UserError(f"policy.{name} is {getattr(config, name)}, the environment has {value}")
    encode_instructions(list(instructions.values()), config.max_instruction_tokens)


def count_trained_parameters(config: PolicyConfig) -> int:
    """Number of parameters that training changes."""
    with torch.device("meta"):
        return sum(p.numel() for p in make_policy(config).parameters())
