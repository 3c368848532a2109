"""OpenVLA of any size with random weights, for benchmarks and plans: no checkpoint and no tokenizer is needed."""

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from vlarl.actions.codec import ActionCodec
from vlarl.actions.tokenizer import ActionTokenizer
from vlarl.configs.openvla import OpenVLAConfig, OpenVLAPolicyConfig, VisionTowerConfig
from vlarl.policies.openvla.model import OpenVLAModel
from vlarl.policies.openvla.policy import OpenVLATrunk
from vlarl.policies.openvla.processor import OpenVLAProcessor
from vlarl.policies.vla import PolicyInputs, VLAPolicy

TINY = OpenVLAConfig(
    image_size=56,
    dino=VisionTowerConfig(width=48, depth=4, num_heads=4, mlp_width=192),
    siglip=VisionTowerConfig(width=64, depth=3, num_heads=4, mlp_width=239, num_registers=0),
    text={
        "vocab_size": 32064,
        "hidden_size": 32,
        "intermediate_size": 88,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
)
"""Sizes for a CPU: 16 image patches, 2 decoder layers, the whole vocabulary."""


def make_random_model(sizes: OpenVLAConfig, *, device: torch.device | str, dtype: torch.dtype) -> OpenVLAModel:
    """Makes the weights where they stay; on the meta device there are none."""
    with torch.device("meta"):
        model = OpenVLAModel(sizes).to(dtype)
    if torch.device(device).type == "meta":
        return model
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    llama = model.language_model.model
    with torch.device(device):
        llama.rotary_emb = LlamaRotaryEmbedding(config=llama.config)
    return model.eval()


def make_random_policy(model: OpenVLAModel, config: OpenVLAPolicyConfig) -> VLAPolicy:
    """A policy on `model`, whose adapters `config` adds; it takes `random_inputs`, not observations."""
    sizes = model.config
    processor = OpenVLAProcessor(
        tokenizer=Tokenizer(models.WordLevel()),
        image_size=sizes.image_size,
        mean=torch.full((6, 1, 1), 0.5),
        std=torch.full((6, 1, 1), 0.5),
    )
    tokenizer = ActionTokenizer(sizes.action_vocab_size, sizes.num_bins)
    codec = ActionCodec(tokenizer, config.action_horizon, config.action_dim)
    return VLAPolicy(config, OpenVLATrunk(model, processor, config), codec)


def random_inputs(sizes: OpenVLAConfig, batch: int, prompt_tokens: int, seed: int = 0) -> PolicyInputs:
    """Prompts on the CPU; every second one is 5 tokens shorter than `prompt_tokens`."""
    rng = np.random.default_rng(seed)
    shape = (batch, sizes.image_size, sizes.image_size, 3)
    mask = torch.ones(batch, prompt_tokens, dtype=torch.bool)
    mask[1::2, -6:-1] = False
    return PolicyInputs(
        images=torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)),
        proprio=torch.zeros(batch, 0),
        instruction_ids=torch.from_numpy(rng.integers(3, sizes.action_vocab_size, (batch, prompt_tokens))),
        instruction_mask=mask,
    )


def published_config(sizes: OpenVLAConfig) -> dict[str, Any]:
    """config.json in the published layout, as far as it is read; the statistics are those of [-1, 1]."""
    action = {"q01": [-1.0] * 7, "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
    return {
        "model_type": "openvla",
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "timm_model_kwargs": [{"num_heads": tower.num_heads} for tower in (sizes.dino, sizes.siglip)],
        "image_sizes": [sizes.image_size, sizes.image_size],
        "text_config": sizes.text,
        "n_action_bins": sizes.num_bins,
        "pad_to_multiple_of": sizes.vocab_padding,
        "norm_stats": {"synthetic": {"action": action}},
    }


def transformers_tokens(model: OpenVLAModel, pixels: Tensor, inputs: PolicyInputs, count: int) -> Tensor:
    """What `transformers` itself decodes greedily, one observation after the other: the baseline of benchmarks.

    Args:
        model: without adapters.
        pixels: [B, 6, H, H], normalised, in the model's dtype.
        inputs: the same B prompts.
        count: action tokens per observation.

    Returns:
        [B, count] ids.
    """
    # Runs to the last action token, whatever is decoded.
    model.language_model.generation_config.eos_token_id = None
    rows = []
    for row in range(len(inputs)):
        ids = inputs.instruction_ids[row, inputs.instruction_mask[row]][None]
        embeddings, mask = model.embed_prompt(pixels[row : row + 1], ids, torch.ones_like(ids, dtype=torch.bool))
        rows.append(
            model.language_model.generate(
                inputs_embeds=embeddings,
                attention_mask=mask.long(),
                max_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
        )
    return torch.cat(rows)


def count_parameters(module: nn.Module) -> int:
    """All of them."""
    return sum(p.numel() for p in module.parameters())
