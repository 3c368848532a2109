"""The autoregressive VLA: vision backbone -> projector -> Llama decoder -> action tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaModel

from vlarl.actions.tokenizer import ActionTokenizer
from vlarl.configs.policy import PolicyConfig
from vlarl.errors import UserError
from vlarl.policies.text import VOCAB_SIZE, encode_instructions
from vlarl.types import Observation


@dataclass(frozen=True, kw_only=True)
class PolicyInputs:
    """A batch of B prompts as tensors. Frames stay uint8 until a forward pass needs them."""

    images: Tensor
    """[B, H, H, 3] uint8."""
    proprio: Tensor
    """[B, P] float32, raw units."""
    instruction_ids: Tensor
    """[B, L] int64, right-padded."""
    instruction_mask: Tensor
    """[B, L] bool, True for real tokens."""

    def __len__(self) -> int:
        return len(self.images)

    def map(self, function) -> "PolicyInputs":  # noqa: ANN001 - any tensor -> tensor function
        """Applies `function` to every tensor."""
        return replace(self, **{f.name: function(getattr(self, f.name)) for f in fields(self)})


def process_observations(observations: Observation, config: PolicyConfig) -> PolicyInputs:
    """Turns observations into prompt tensors.

    Raises:
        UserError: an image of another size or dtype, a proprioception vector of another length or not finite.
    """
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


def at_least_float32(x: Tensor) -> Tensor:
    """Half precisions become float32, float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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

    def forward(self, images: Tensor) -> Tensor:
        """[B, H, H, 3] uint8 -> [B, num_tokens, channels[-1]]."""
        pixels = images.permute(0, 3, 1, 2).to(self.position.dtype) / 127.5 - 1.0
        return self.norm(self.layers(pixels).flatten(2).transpose(1, 2)) + self.position


class VLATrunk(nn.Module):
    """Prompt embedding and Llama decoder: what the policy and the homogeneous value network have in common."""

    def __init__(self, config: PolicyConfig) -> None:
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
        self.vocab_size = VOCAB_SIZE + config.num_bins
        self.decoder = LlamaModel(
            LlamaConfig(
                vocab_size=self.vocab_size,
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

    def set_proprio_statistics(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Sets the standardisation of proprioception, both [P]; a tiny std is raised to 1 % of the largest."""
        floor = max(0.01 * float(np.max(std)), 1e-4)
        self.proprio_mean.copy_(torch.from_numpy(np.asarray(mean, dtype=np.float32)))
        self.proprio_std.copy_(torch.from_numpy(np.maximum(std, floor).astype(np.float32)))

    def embed_prompt(self, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """Returns prompt embeddings [B, prompt, width] and their mask [B, prompt] bool.

        The proprioception token is last, so the first action token is predicted at one position for all rows.
        """
        images = self.projector(self.vision(inputs.images))
        text = self.decoder.embed_tokens(inputs.instruction_ids)
        standardised = (inputs.proprio - self.proprio_mean) / self.proprio_std
        proprio = self.proprio(standardised[:, self.proprio_entries]).unsqueeze(1)
        real = torch.ones_like(inputs.instruction_mask[:, :1])
        mask = torch.cat([real.expand(-1, images.shape[1]), inputs.instruction_mask, real], dim=1)
        return torch.cat([images, text, proprio], dim=1), mask

    def decode(
        self, embeddings: Tensor, key_mask: Tensor, cache: DynamicCache | None = None, past_length: int = 0
    ) -> Tensor:
        """Runs the decoder on `embeddings` [B, S, width], after `past_length` cached positions.

        Args:
            embeddings: inputs of the new positions.
            key_mask: [B, past_length + S] bool, False for padding.
            cache: keys and values so far; extended in place.
            past_length: positions already in the cache.

        Returns:
            Last hidden states [B, S, width].
        """
        length = embeddings.shape[1]
        total = past_length + length
        causal = torch.ones(length, total, dtype=torch.bool, device=embeddings.device).tril(past_length)
        # Padding queries attend to earlier real tokens only; position 0 is always real, so no row is empty.
        attention_mask = causal[None, None] & key_mask[:, None, None, :]
        position_ids = (key_mask.cumsum(1) - 1)[:, past_length:]
        return self.decoder(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state


class VLAPolicy(nn.Module):
    """pi(action tokens | image, instruction, proprioception), autoregressive over the tokens of a turn."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = VLATrunk(config)
        self.action_tokenizer = ActionTokenizer(self.trunk.vocab_size, config.num_bins)
        # Tells the decoder which (action, dimension) comes next; without it a tiny decoder must count positions.
        self.slots = nn.Parameter(0.02 * torch.randn(config.num_action_tokens, config.hidden_size))
        self.lm_head = nn.Linear(config.hidden_size, config.num_bins, bias=True)

    @property
    def first_action_token(self) -> int:
        """Lowest vocabulary id of an action token; the head covers the ids from here on."""
        return self.trunk.vocab_size - self.config.num_bins

    def embed_actions(self, action_tokens: Tensor) -> Tensor:
        """[B, n] ids of the first n action tokens -> [B, n, width], each carrying the slot of the token it predicts."""
        count = action_tokens.shape[1]
        return self.trunk.decoder.embed_tokens(action_tokens) + self.slots[1 : count + 1]

    def embed_prompt(self, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """As VLATrunk.embed_prompt; the last position predicts the first action token."""
        embeddings, mask = self.trunk.embed_prompt(inputs)
        embeddings[:, -1] = embeddings[:, -1] + self.slots[0]
        return embeddings, mask

    def forward(self, inputs: PolicyInputs, action_tokens: Tensor) -> Tensor:
        """Teacher-forced logits over the action range, [B, K, num_bins], for action_tokens [B, K]."""
        prompt, mask = self.embed_prompt(inputs)
        embeddings = torch.cat([prompt, self.embed_actions(action_tokens[:, :-1])], dim=1)
        key_mask = torch.cat([mask, mask.new_ones(len(mask), action_tokens.shape[1] - 1)], dim=1)
        hidden = self.trunk.decode(embeddings, key_mask)
        return at_least_float32(self.lm_head(hidden[:, prompt.shape[1] - 1 :]))

    def token_logprobs(self, inputs: PolicyInputs, action_tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [B, K] float32 of the distribution sampled at `temperature`."""
        logprobs = torch.log_softmax(self(inputs, action_tokens) / temperature, dim=-1)
        chosen = logprobs.gather(-1, (action_tokens - self.first_action_token).unsqueeze(-1)).squeeze(-1)
        return chosen, -(logprobs.exp() * logprobs).sum(-1)

    def decode_actions(self, action_tokens: np.ndarray) -> np.ndarray:
        """[B, K] ids -> actions [B, action_horizon, action_dim] float32 in [-1, 1], the environments' unit range."""
        actions = self.action_tokenizer.decode(action_tokens)
        return actions.reshape(len(actions), self.config.action_horizon, self.config.action_dim)

    def encode_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions [B, action_horizon, action_dim] -> ids [B, K]."""
        return self.action_tokenizer.encode(actions.reshape(len(actions), -1))
