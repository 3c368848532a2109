"""OpenVLA's two vision transformers, with parameters named and shaped as in the published checkpoints.

`transformers` has both architectures, but splits the fused query-key-value projection in three. LoRA on the split
layers is another adapter than the reference's (other shapes, 3.6 M more parameters at 7B), and the published adapters
could not be read. Here every linear layer is the reference's own, so tensors and adapters need no renaming.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from vlarl.configs.openvla import OpenVLAConfig, VisionTowerConfig

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] -> [B, N, width]."""
        batch, count, width = x.shape
        fused = self.qkv(x).view(batch, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        attended = scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(batch, count, width))


class MLP(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel; `scale_factor` is the published name (transformers renames `gamma`)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return x * self.scale_factor


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = Attention(config)
        self.ls1 = LayerScale(config.width) if config.has_prefix else nn.Identity()
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = MLP(config.width, config.mlp_width)
        self.ls2 = LayerScale(config.width) if config.has_prefix else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] -> [B, N, width]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class AttentionPool(nn.Module):
    """SigLIP's pooling head. OpenVLA never evaluates it; its parameters are part of checkpoint and adapters."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.zeros(1, 1, config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = MLP(config.width, config.mlp_width)


class PatchEmbedding(nn.Module):
    """Non-overlapping patches."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, H] -> [B, patches, width]."""
        return self.proj(pixels).flatten(2).transpose(1, 2)


class VisionTower(nn.Module):
    """DINOv2 with registers (`has_prefix`) or SigLIP."""

    def __init__(self, config: VisionTowerConfig, num_patches: int, patch_size: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.num_prefix = 1 + config.num_registers if config.has_prefix else 0
        if config.has_prefix:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
            self.reg_token = nn.Parameter(torch.zeros(1, config.num_registers, config.width))
        self.patch_embed = PatchEmbedding(config.width, patch_size)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, num_patches, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        if not config.has_prefix:
            self.attn_pool = AttentionPool(config)

    def embed(self, pixels: Tensor) -> Tensor:
        """Input of the first block, [B, prefix + patches, width]. Only patches have positions."""
        tokens = self.patch_embed(pixels) + self.pos_embed
        if not self.num_prefix:
            return tokens
        prefix = torch.cat([self.cls_token, self.reg_token], dim=1).expand(len(pixels), -1, -1)
        return torch.cat([prefix, tokens], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, H] normalised -> patch features of the second-to-last block, [B, patches, width], not normed."""
        tokens = self.embed(pixels)
        for block in self.blocks[:-1]:
            if self.gradient_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens[:, self.num_prefix :]


class FusedVisionBackbone(nn.Module):
    """Both towers on the same image, features joined along the channels."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.featurizer = VisionTower(config.dino, config.num_patches, config.patch_size)
        self.fused_featurizer = VisionTower(config.siglip, config.num_patches, config.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 6, H, H], DINOv2's normalisation first -> [B, patches, dino width + siglip width]."""
        dino, siglip = pixels.split(3, dim=1)
        return torch.cat([self.featurizer(dino), self.fused_featurizer(siglip)], dim=2)
