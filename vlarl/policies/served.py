"""The weights that a policy acts with: adapters folded in, under the names of the policy without them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from vlarl.policies.registry import AnyPolicyConfig

Gather = Callable[[Tensor], Tensor]


def merged_weight(layer: nn.Module, gather: Gather = lambda tensor: tensor) -> Tensor:
    """The weight of a linear layer or convolution; of one that peft has wrapped, W + alpha / rank B A.

    Args:
        layer: with `weight`, or wrapped.
        gather: makes a tensor whole, where parameters are sharded.
    """
    if not hasattr(layer, "get_delta_weight"):
        return gather(layer.weight)
    weight = gather(layer.get_base_layer().weight)
    for name in layer.active_adapters:
        down, up = gather(layer.lora_A[name].weight), gather(layer.lora_B[name].weight)
        # Of a convolution too: A has its kernel, B is one by one.
        update = (up.flatten(1) @ down.flatten(1)).view(weight.shape) * layer.scaling[name]
        weight = weight + update.to(weight.dtype)
    return weight


@torch.no_grad()
def served_weights(policy: nn.Module, gather: Gather = lambda tensor: tensor) -> Iterator[tuple[str, Tensor]]:
    """Yields every parameter and buffer that a policy without adapters has, one after the other, merged and whole.

    Args:
        policy: with adapters or without; nothing of it changes.
        gather: makes a tensor whole; where parameters are sharded, all ranks must iterate.
    """
    wrapped = {name: module for name, module in policy.named_modules() if hasattr(module, "get_delta_weight")}
    for name, tensor in policy.state_dict().items():
        owner = next((n for n in _parents(name) if n in wrapped), None)
        if owner is None:
            yield _plain(name), gather(tensor)
        elif name == f"{owner}.base_layer.weight":
            yield _plain(name), merged_weight(wrapped[owner], gather)
        elif name.startswith(f"{owner}.base_layer."):
            yield _plain(name), gather(tensor)


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _plain(name: str) -> str:
    """The name without peft's wrappers."""
    return name.replace(".base_model.model.", ".").replace(".base_layer.", ".")


def served_config(config: AnyPolicyConfig) -> AnyPolicyConfig:
    """The configuration of the policy whose parameters `served_weights` names."""
    return replace(config, lora=None) if getattr(config, "lora", None) is not None else config
