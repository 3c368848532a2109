"""Low-rank adapters on every linear layer and patch convolution, as OpenVLA's fine-tuning sets them (finetune.py)."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from vlarl.configs.openvla import LoRAConfig
from vlarl.errors import UserError
from vlarl.policies.openvla.model import OpenVLAModel

ADAPTER_CONFIG_NAME = "adapter_config.json"


def add_lora(model: OpenVLAModel, config: LoRAConfig) -> PeftModel:
    """Wraps the model; only the adapters are trainable. A starts Gaussian and B at zero: nothing changes at first."""
    names = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=sorted(names),
        init_lora_weights="gaussian",
    )
    return get_peft_model(model, settings)


def load_adapter(model: OpenVLAModel, folder: Path, *, is_trainable: bool = False) -> PeftModel:
    """Puts a saved adapter on the model.

    Raises:
        UserError: no adapter there, or pickled weights.
    """
    if not (folder / ADAPTER_CONFIG_NAME).is_file():
        raise UserError(f"no adapter at {folder}: it has no {ADAPTER_CONFIG_NAME}")
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"the adapter at {folder} has no adapter_model.safetensors; pickled weights are not read")
    return PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable)


@torch.no_grad()
def merge(adapted: PeftModel) -> OpenVLAModel:
    """Folds the adapters into the weights, W + alpha / rank B A, and removes them; changes the model in place.

    Into bfloat16 weights the adapters go in bfloat16, as when OpenVLA's finetune.py merges.
    """
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            dtype = module.get_base_layer().weight.dtype
            module.lora_A.to(dtype)
            module.lora_B.to(dtype)
    return adapted.merge_and_unload()


def trainable_parameters(model: nn.Module) -> int:
    """Number of parameters that get a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
