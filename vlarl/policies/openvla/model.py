"""OpenVLA's network: fused vision towers, projector, Llama (arXiv 2406.09246, section 3.1)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import LlamaConfig, LlamaForCausalLM

from vlarl.configs.openvla import OpenVLAConfig
from vlarl.policies.openvla.towers import FusedVisionBackbone


class Projector(nn.Module):
    """Three linear layers from vision channels to the decoder's width, exact GELU between them."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, 4 * inputs)
        self.fc2 = nn.Linear(4 * inputs, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """[B, patches, inputs] -> [B, patches, width]."""
        return self.fc3(gelu(self.fc2(gelu(self.fc1(features)))))


class OpenVLAModel(nn.Module):
    """Parameters have the names of the published checkpoints."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = FusedVisionBackbone(config)
        self.projector = Projector(config.dino.width + config.siglip.width, config.text["hidden_size"])
        self.language_model = LlamaForCausalLM(LlamaConfig(**config.text | {"attn_implementation": "sdpa"}))

    def enable_gradient_checkpointing(self) -> None:
        """In training, layers are computed again in the backward pass instead of being kept."""
        self.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        for tower in (self.vision_backbone.featurizer, self.vision_backbone.fused_featurizer):
            tower.gradient_checkpointing = True

    def embed_prompt(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the patches after the first token (BOS).

        Args:
            pixels: [B, 6, H, H], normalised.
            input_ids: [B, L] int64, right-padded.
            attention_mask: [B, L] bool, False for padding.

        Returns:
            Embeddings [B, patches + L, width] and their mask [B, patches + L].
        """
        patches = self.projector(self.vision_backbone(pixels))
        text = self.language_model.get_input_embeddings()(input_ids)
        real = attention_mask.new_ones(patches.shape[:2])
        mask = torch.cat([attention_mask[:, :1], real, attention_mask[:, 1:]], dim=1)
        return torch.cat([text[:, :1], patches, text[:, 1:]], dim=1), mask

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, patches + L, vocabulary] of the multimodal sequence; arguments as in embed_prompt."""
        embeddings, mask = self.embed_prompt(pixels, input_ids, attention_mask)
        return self.language_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).logits
