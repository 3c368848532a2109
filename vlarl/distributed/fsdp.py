"""Sharding of a model's parameters, gradients and optimizer states over ranks (PyTorch's FSDP2)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from vlarl.distributed.ranks import Ranks


def shard(module: nn.Module, layers: Iterable[nn.Module], ranks: Ranks, *, bfloat16: bool = False) -> None:
    """Shards `module` in place, so that each rank holds its part of every parameter; all ranks must call.

    A layer's parameters are whole only while it computes; those outside of `layers` while the module's forward pass
    runs. Only `module(...)` may be called from then on, or a method that was named to
    `register_fsdp_forward_method`. Parameters that two layers shared are apart afterwards: frozen ones stay equal.

    Args:
        module: the same on every rank.
        layers: modules inside, in the order in which they compute.
        ranks: more than one.
        bfloat16: computes in bfloat16, while parameters, gradients and their sums stay as they are (float32).
    """
    part_frozen(module)
    device = next(module.parameters()).device.type
    mesh = init_device_mesh(device, (ranks.size,))
    # Outputs of a layer stay bfloat16; log-probs and values are computed in float32 by the modules themselves.
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    settings = {"mesh": mesh, "mp_policy": precision if bfloat16 else MixedPrecisionPolicy()}
    for layer in layers:
        fully_shard(layer, **settings, reshard_after_forward=True)
    # By default the root would stay whole after a forward pass, and its parameters could not be read or saved.
    fully_shard(module, **settings, reshard_after_forward=True)


def part_frozen(module: nn.Module) -> None:
    """Gives modules that share a frozen parameter one of their own each, on the same memory."""
    seen = set()
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in seen and not parameter.requires_grad:
                parameter = nn.Parameter(parameter.data, requires_grad=False)
                setattr(owner, name, parameter)
            seen.add(id(parameter))


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; a plain tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor; all ranks must call. A plain tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
