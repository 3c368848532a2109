"""The autoregressive VLA: vision backbone -> projector -> Llama decoder -> action tokens, at any size."""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaModel

from vlarl.actions.codec import ActionCodec
from vlarl.types import Observation

M = TypeVar("M", bound=nn.Module)


class ActionLayout(Protocol):
    """What the algorithm knows of a policy's configuration."""

    @property
    def action_dim(self) -> int:
        """Entries of one action."""
        ...

    @property
    def action_horizon(self) -> int:
        """Actions emitted per turn."""
        ...

    @property
    def num_action_tokens(self) -> int:
        """Action tokens of a turn (K)."""
        ...


@dataclass(frozen=True, kw_only=True)
class PolicyInputs:
    """A batch of B prompts as tensors. Frames stay uint8 until a forward pass needs them."""

    images: Tensor
    """[B, H, H, 3] uint8."""
    proprio: Tensor
    """[B, P] float32, raw units."""
    instruction_ids: Tensor
    """[B, L] int64; padding is anywhere but at the first and the last position that the trunk reads."""
    instruction_mask: Tensor
    """[B, L] bool, True for real tokens."""

    def __len__(self) -> int:
        return len(self.images)

    def map(self, function) -> "PolicyInputs":  # noqa: ANN001 - any tensor -> tensor function
        """Applies `function` to every tensor."""
        return replace(self, **{f.name: function(getattr(self, f.name)) for f in fields(self)})


def at_least_float32(x: Tensor) -> Tensor:
    """Half precisions become float32, float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class VLATrunk(nn.Module, ABC):
    """Prompt embedding, Llama decoder and token head: what differs between the sizes of a VLA.

    The last prompt position is real in every row: the first action token is predicted there, and the value is read.
    """

    first_token: int
    """Vocabulary id that the head's first logit stands for."""
    stop_token: int | None = None
    """Id that follows the action tokens in supervised examples; generation ends without it. None: there is none."""

    @property
    @abstractmethod
    def decoder(self) -> LlamaModel:
        """The decoder, without its token head."""

    @property
    def width(self) -> int:
        """Channels of the hidden states."""
        return self.decoder.config.hidden_size

    @abstractmethod
    def process(self, observations: Observation) -> PolicyInputs:
        """Turns observations into prompt tensors on the CPU.

        Raises:
            UserError: an image, proprioception vector or instruction that the policy cannot take.
        """

    def fit_statistics(self, observations: Observation) -> None:  # noqa: B027 - most trunks bring theirs
        """Before SFT: sets what standardises the inputs."""

    @abstractmethod
    def embed_prompt(self, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """Returns prompt embeddings [B, prompt, width] and their mask [B, prompt] bool."""

    @abstractmethod
    def embed_actions(self, action_tokens: Tensor, first: int = 0) -> Tensor:
        """Ids [B, n] of a turn's action tokens `first` to `first` + n - 1 -> inputs of the decoder [B, n, width]."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """[..., width] -> scores [..., tokens] of the ids from `first_token` on."""

    @abstractmethod
    def remove_head(self) -> None:
        """Leaves out the parameters that only `logits` and `embed_actions` need: a value network has neither."""

    @abstractmethod
    def small_value_trunk(self) -> "VLATrunk":
        """Returns a fresh small trunk that reads this trunk's inputs, for a cheap value network."""

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
        visible = causal[None, None] & key_mask[:, None, None, :]
        # As a bias: of a boolean mask every layer would make one.
        attention_mask = torch.zeros_like(visible, dtype=embeddings.dtype).masked_fill_(~visible, -torch.inf)
        position_ids = (key_mask.cumsum(1) - 1)[:, past_length:]
        return self.decoder(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state


def copy_trained(module: M) -> M:
    """Copies a module; frozen parameters are shared with the original, not copied (at 7B they are nearly all)."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters() if not p.requires_grad})


class VLAPolicy(nn.Module):
    """pi(action tokens | image, instruction, proprioception), autoregressive over the tokens of a turn."""

    def __init__(self, config: ActionLayout, trunk: VLATrunk, codec: ActionCodec) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk
        self.codec = codec

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, inputs: PolicyInputs, action_tokens: Tensor) -> Tensor:
        """Teacher-forced logits [B, K, tokens] of the ids from `trunk.first_token` on, for action_tokens [B, K]."""
        prompt, mask = self.trunk.embed_prompt(inputs)
        embeddings = torch.cat([prompt, self.trunk.embed_actions(action_tokens[:, :-1])], dim=1)
        key_mask = torch.cat([mask, mask.new_ones(len(mask), action_tokens.shape[1] - 1)], dim=1)
        hidden = self.trunk.decode(embeddings, key_mask)
        return at_least_float32(self.trunk.logits(hidden[:, prompt.shape[1] - 1 :]))

    def token_logprobs(self, inputs: PolicyInputs, action_tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [B, K] float32 of the distribution sampled at `temperature`."""
        logprobs = torch.log_softmax(self(inputs, action_tokens) / temperature, dim=-1)
        chosen = logprobs.gather(-1, (action_tokens - self.trunk.first_token).unsqueeze(-1)).squeeze(-1)
        return chosen, -(logprobs.exp() * logprobs).sum(-1)

    def decode_actions(self, action_tokens: np.ndarray) -> np.ndarray:
        """[B, K] ids -> actions [B, action_horizon, action_dim] float32 in the environment's units."""
        return self.codec.decode(action_tokens)

    def encode_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions [B, action_horizon, action_dim] in the environment's units -> ids [B, K]."""
        return self.codec.encode(actions)
