"""Sizes of an OpenVLA model, as its published config.json gives them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from vlarl.configs.checks import require_at_least
from vlarl.errors import UserError

PromptFormat = Literal["openvla", "v01"]


@dataclass(frozen=True, kw_only=True)
class VisionTowerConfig:
    """One vision transformer. The defaults are DINOv2's large one with registers, as OpenVLA-7B has it."""

    width: int = 1024
    """Channels."""
    depth: int = 24
    """Blocks; the features are those of the second-to-last, the last one is never evaluated."""
    num_heads: int = 16
    """Attention heads."""
    mlp_width: int = 4096
    """Hidden channels of a block's MLP."""
    num_registers: int = 4
    """Register tokens; with them come a class token and layer scale, as in DINOv2. 0: none of these, as in SigLIP."""

    @property
    def has_prefix(self) -> bool:
        """Whether a class token and registers stand before the patches."""
        return self.num_registers > 0


SIGLIP_SO400M = VisionTowerConfig(width=1152, depth=27, num_heads=16, mlp_width=4304, num_registers=0)
"""The second tower of OpenVLA-7B."""

LLAMA2_7B: dict[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
"""transformers' LlamaConfig of OpenVLA-7B: Llama-2's sizes, the vocabulary padded from 32,001 to a multiple of 64."""


@dataclass(frozen=True, kw_only=True)
class OpenVLAConfig:
    """Architecture. The defaults are the published 7B."""

    image_size: int = 224
    """Side of the input image, pixels."""
    patch_size: int = 14
    """Side of a patch, pixels."""
    dino: VisionTowerConfig = field(default_factory=VisionTowerConfig)
    siglip: VisionTowerConfig = SIGLIP_SO400M
    text: dict[str, Any] = field(default_factory=lambda: dict(LLAMA2_7B))
    """Arguments of transformers' LlamaConfig."""
    num_bins: int = 256
    """Edges of the action bins; the action tokens are the last ids of the unpadded vocabulary."""
    vocab_padding: int = 64
    """Rows of the embedding that stand for no token: the padded vocabulary minus this many ids ends the action ids."""

    @property
    def num_patches(self) -> int:
        """Image tokens in the prompt, the same for both towers."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def max_positions(self) -> int:
        """Length of the decoder's context."""
        return self.text["max_position_embeddings"]

    @property
    def action_vocab_size(self) -> int:
        """One more than the highest action token id (32,000 at 7B)."""
        return self.text["vocab_size"] - self.vocab_padding


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adapters; the defaults are those of OpenVLA's fine-tuning (finetune.py)."""

    rank: int = 32
    """Rank of B A."""
    alpha: int = 16
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout of the adapter's input."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise UserError(f"lora.rank and lora.alpha must be at least 1, got {self.rank} and {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class OpenVLAPolicyConfig:
    """An OpenVLA checkpoint as the policy: `[BOS][image patches][prompt][empty token][action tokens]`.

    Raises:
        UserError: if a value is impossible.
    """

    kind: Literal["openvla"] = "openvla"
    """Which policy this configures (`vlarl.policies.registry.POLICIES`)."""
    checkpoint: str = "openvla/openvla-7b"
    """Folder in the published layout, or hub id (owner/name)."""
    unnorm_key: str = ""
    """Data set of the checkpoint whose action statistics apply; empty takes the only one there is."""
    prompt: PromptFormat = "openvla"
    """The prompt's wording; v01 is that of openvla-v01-7b (Vicuna's chat)."""
    lora: LoRAConfig | None = field(default_factory=LoRAConfig)
    """Adapters that are trained while the checkpoint stays frozen; None trains all weights."""
    image_size: int = 256
    """Side of the camera image, pixels; it is resized to what the checkpoint takes."""
    libero_frames: bool = True
    """Frames become what OpenVLA's LIBERO data are: mirrored, through JPEG, lanczos3 to 224 pixels."""
    center_crop: bool = True
    """Keeps the middle 90 % of the area, as for checkpoints trained with random crops."""
    action_dim: int = 7
    """Entries of one action."""
    action_horizon: int = 1
    """Actions emitted per turn."""
    action_tokens_only: bool = False
    """Samples among the 256 action tokens only; off, all 32,064 ids can come, as in the published code."""
    gradient_checkpointing: bool = False
    """Recomputes layers in the backward pass: less memory, about a third more time."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen weights; auto is bfloat16 on a GPU and float32 on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the policy runs; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        require_at_least(self, "policy", 1, "image_size", "action_dim", "action_horizon")

    @property
    def num_action_tokens(self) -> int:
        """Action tokens of a turn (K)."""
        return self.action_dim * self.action_horizon
