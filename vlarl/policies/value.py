"""Value networks: V(image, instruction, proprioception, elapsed time), a head on the last prompt position."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlarl.configs.training import ValueKind
from vlarl.policies.vla import PolicyInputs, VLAPolicy, VLATrunk, at_least_float32, copy_trained

ELAPSED_SCALE = 100.0
"""Env steps that count as one unit of elapsed time."""


class ValueNetwork(nn.Module):
    """Expected discounted return, zero everywhere at first.

    An episode ends at a step limit, so the same picture is worth less the later it is seen. A frame does not show the
    time: the head gives a value and its slope over the elapsed time (Pardo et al., Time Limits in RL, 1712.00378).
    """

    def __init__(self, trunk: VLATrunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.trunk.remove_head()
        self.head = nn.Linear(trunk.width, 2, device=next(trunk.parameters()).device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers, outermost first: what is sharded layer by layer."""
        return list(self.trunk.decoder.layers)

    def forward(self, inputs: PolicyInputs, elapsed_steps: Tensor) -> Tensor:
        """Values [B] float32 of prompts seen `elapsed_steps` [B] env steps after their episodes' starts."""
        embeddings, mask = self.trunk.embed_prompt(inputs)
        hidden = at_least_float32(self.trunk.decode(embeddings, mask)[:, -1])
        value, slope = at_least_float32(self.head(hidden.to(self.head.weight.dtype))).unbind(-1)
        return value + slope * (elapsed_steps.to(value.dtype) / ELAPSED_SCALE)


class ConstantValue(nn.Module):
    """One number for every observation: what a critic-free algorithm has in the place of a value network."""

    layers: Sequence[nn.Module] = ()

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: PolicyInputs, elapsed_steps: Tensor) -> Tensor:
        """The number [B] float32."""
        del inputs
        return self.value.expand(len(elapsed_steps))


def make_value_network(policy: VLAPolicy, kind: ValueKind = "homogeneous") -> ValueNetwork:
    """Builds the value network of a policy.

    Args:
        policy: "homogeneous" copies what is trained of its trunk and shares what is frozen; "frozen" learns the head
            on the trunk as it is now; "small" is a network of its own that sees the same inputs.
        kind: which of them.
    """
    if kind == "small":
        return ValueNetwork(policy.trunk.small_value_trunk())
    trunk = copy_trained(policy.trunk)
    return ValueNetwork(trunk.requires_grad_(False) if kind == "frozen" else trunk)
