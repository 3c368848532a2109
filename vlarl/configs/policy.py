"""The size and layout of an autoregressive VLA policy."""

from dataclasses import dataclass
from typing import Literal

from vlarl.configs.checks import require_at_least
from vlarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Vision backbone -> projector -> Llama decoder -> action tokens.

    The sequence is `[image tokens][instruction tokens][proprioception token][action tokens]`. The defaults are the
    tiny policy for two CPU cores: a decoder of 0.4 M parameters and at most 90 tokens in all.

    Raises:
        UserError: if a size is impossible.
    """

    kind: Literal["tiny"] = "tiny"
    """Which policy this configures (`vlarl.policies.registry.POLICIES`)."""
    image_size: int = 64
    """Side of the input image, pixels."""
    vision_channels: tuple[int, ...] = (32, 64, 96, 128)
    """Output channels of the stride-2 convolutions; each halves the image, what is left are the image tokens."""
    hidden_size: int = 128
    """Width of the decoder."""
    intermediate_size: int = 344
    """Width of the SwiGLU layer."""
    num_layers: int = 2
    """Decoder layers."""
    num_heads: int = 4
    """Attention heads."""
    max_instruction_tokens: int = 17
    """Instruction tokens; shorter instructions are padded and masked."""
    proprio_dim: int = 12
    """Entries of the environment's proprioception vector."""
    proprio_entries: tuple[int, ...] | None = None
    """Entries that the policy reads; the others it has to see in the image. None reads all."""
    action_dim: int = 7
    """Entries of one action."""
    action_horizon: int = 8
    """Actions emitted per turn."""
    num_bins: int = 256
    """Bins per action dimension (OpenVLA: 256)."""

    def __post_init__(self) -> None:
        require_at_least(self, "policy", 1, *(name for name, value in vars(self).items() if isinstance(value, int)))
        require_at_least(self, "policy", 2, "num_bins")
        if not self.vision_channels or min(self.vision_channels) < 1:
            raise UserError(f"policy.vision_channels must be one or more sizes, got {list(self.vision_channels)}")
        stride = 2 ** len(self.vision_channels)
        if self.image_size % stride:
            raise UserError(
                f"policy.image_size {self.image_size} is not a multiple of {stride}, the total stride of"
                f" {len(self.vision_channels)} vision_channels"
            )
        if self.proprio_entries is not None and not _are_different_indices(self.proprio_entries, self.proprio_dim):
            raise UserError(
                f"policy.proprio_entries must name different entries from 0 to {self.proprio_dim - 1}, at least one,"
                f" got {list(self.proprio_entries)}"
            )
        if self.hidden_size % (2 * self.num_heads):
            raise UserError(
                f"policy.hidden_size {self.hidden_size} is not a multiple of 2 x num_heads {self.num_heads}"
                " (rotary embeddings need an even head size)"
            )

    @property
    def num_image_tokens(self) -> int:
        """Image tokens in the prompt."""
        return (self.image_size // 2 ** len(self.vision_channels)) ** 2

    @property
    def num_prompt_tokens(self) -> int:
        """Image, instruction and proprioception tokens."""
        return self.num_image_tokens + self.max_instruction_tokens + 1

    @property
    def num_action_tokens(self) -> int:
        """Action tokens of a turn (K)."""
        return self.action_dim * self.action_horizon


def _are_different_indices(entries: tuple[int, ...], size: int) -> bool:
    return bool(entries) and len(set(entries)) == len(entries) and set(entries) <= set(range(size))
