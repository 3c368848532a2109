"""One-token steps of a Llama decoder with a static key-value cache.

`transformers`' own loop spends half of its time on a tiny decoder outside the matrix products (growing caches, masks,
module calls). Here the projections are fused, masks and rotary tables are made once per turn, and every tensor stays
where it is from turn to turn, so that a GPU can replay a whole turn as one graph. The numbers agree with the module's
to rounding.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaModel

from vlarl.policies.served import merged_weight


class _Layer:
    """Fused weights of one decoder layer."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self.qkv, self.output, self.gate_up, self.down = self._fused()
        self.input_norm = layer.input_layernorm.weight
        self.post_norm = layer.post_attention_layernorm.weight

    def refresh(self) -> None:
        """Takes the layer's present weights, at the same addresses."""
        for mine, new in zip((self.qkv, self.output, self.gate_up, self.down), self._fused(), strict=True):
            if mine is not new:
                mine.copy_(new)

    def _fused(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        attention, mlp = self._layer.self_attn, self._layer.mlp
        qkv = torch.cat([merged_weight(p) for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
        gate_up = torch.cat([merged_weight(mlp.gate_proj), merged_weight(mlp.up_proj)])
        return qkv, merged_weight(attention.o_proj), gate_up, merged_weight(mlp.down_proj)


class PromptCache(DynamicCache):
    """Puts the keys and values of a prompt's only forward pass where the steps read them."""

    def __init__(self, caches: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._caches = caches

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,  # noqa: ANN401 - transformers' signature
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Stores [B, heads, prompt, head_dim] and returns them."""
        batch, _, length, _ = key_states.shape
        stored = []
        for buffer, states in zip(self._caches[layer_idx], (key_states, value_states), strict=True):
            buffer[:batch, :, :length] = states
            stored.append(states.contiguous())
        return stored[0], stored[1]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Tensors of one turn at fixed addresses: up to B prompts of up to `length` positions, then `num_steps` steps."""

    length: int
    caches: list[tuple[Tensor, Tensor]]
    """Keys and values per layer, each [B, heads, length + num_steps, head_dim]."""
    bias: Tensor
    """[B, 1, 1, length + num_steps], added to the attention's scores: 0, or the lowest number for padding."""
    cos: Tensor
    """[B, 1, num_steps, head_dim]."""
    sin: Tensor
    hidden: Tensor
    """[B, width], last hidden state of the prompt."""


class LlamaStepper:
    """Decodes after a prompt that LlamaModel itself has processed; holds copies of the weights it fuses."""

    @torch.no_grad()
    def __init__(self, decoder: LlamaModel) -> None:
        config = decoder.config
        # Reading a configuration takes longer than a small operation.
        self._heads, self._groups = config.num_attention_heads, config.num_key_value_heads
        self._head_dim, self._width, self._epsilon = config.head_dim, config.hidden_size, config.rms_norm_eps
        self._layers = [_Layer(layer) for layer in decoder.layers]
        self._norm = decoder.norm.weight
        self._rotary = decoder.rotary_emb
        self._storage = self._norm.new_zeros(0)

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes the decoder's present weights, at the same addresses."""
        for layer in self._layers:
            layer.refresh()

    def make_turn(self, batch: int, length: int, num_steps: int) -> tuple[Turn, bool]:
        """Returns the tensors of a turn, and whether those of earlier turns have lost their place.

        All turns share one memory for keys and values, as large as the largest needs.
        """
        total = length + num_steps
        shape = (len(self._layers), 2, batch, self._groups, total, self._head_dim)
        size, moved = math.prod(shape), False
        if size > len(self._storage):
            # Zeros: what is masked is multiplied by zero, which NaN would survive.
            self._storage, moved = self._norm.new_zeros(size), True
        keys_values = self._storage[:size].view(shape)
        rotary = self._norm.new_zeros(batch, 1, num_steps, self._head_dim)
        turn = Turn(
            length=length,
            caches=[(layer[0], layer[1]) for layer in keys_values],
            bias=self._norm.new_zeros(batch, 1, 1, total),
            cos=rotary,
            sin=rotary.clone(),
            hidden=self._norm.new_zeros(batch, self._width),
        )
        return turn, moved

    def begin(self, turn: Turn, hidden: Tensor, prompt_mask: Tensor) -> None:
        """Starts a turn after its prompt, whose keys and values `PromptCache(turn.caches)` has stored.

        Args:
            turn: of at least as many rows and positions.
            hidden: [B, width] of the last prompt position.
            prompt_mask: [B, prompt] bool, False for padding.
        """
        batch, prompt = prompt_mask.shape
        turn.hidden[:batch] = hidden
        lowest = torch.finfo(turn.bias.dtype).min
        turn.bias[:batch, 0, 0, :prompt] = torch.zeros_like(prompt_mask, dtype=turn.bias.dtype).masked_fill_(
            ~prompt_mask, lowest
        )
        turn.bias[:, :, :, prompt : turn.length] = lowest
        steps = torch.arange(turn.cos.shape[2], device=prompt_mask.device)
        cos, sin = self._rotary(self._norm[None], prompt_mask.sum(1, keepdim=True) + steps)
        turn.cos[:batch, 0], turn.sin[:batch, 0] = cos, sin

    def step(self, turn: Turn, hidden: Tensor, index: int) -> Tensor:
        """Inputs [B, width] of the turn's position `index` after the prompt -> last hidden states [B, width]."""
        for number, layer in enumerate(self._layers):
            projected = nn.functional.linear(self._rms_norm(hidden, layer.input_norm), layer.qkv)
            hidden = hidden + nn.functional.linear(self._attend(turn, number, projected, index), layer.output)
            gate_up = nn.functional.linear(self._rms_norm(hidden, layer.post_norm), layer.gate_up)
            hidden = hidden + nn.functional.linear(self._gate(gate_up), layer.down)
        return self._rms_norm(hidden, self._norm)

    def _attend(self, turn: Turn, number: int, projected: Tensor, index: int) -> Tensor:
        end, heads, groups, size = turn.length + index + 1, self._heads, self._groups, self._head_dim
        fused = projected.view(len(projected), heads + 2 * groups, 1, size)
        rotated = self._rotate(fused[:, : heads + groups], turn, index)
        keys, values = turn.caches[number]
        keys[:, :, end - 1 : end] = rotated[:, heads:]
        values[:, :, end - 1 : end] = fused[:, heads + groups :]
        attended = nn.functional.scaled_dot_product_attention(
            rotated[:, :heads],
            keys[:, :, :end],
            values[:, :, :end],
            attn_mask=turn.bias[..., :end],
            enable_gqa=heads != groups,
        )
        return attended.reshape(len(projected), heads * size)

    def _gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return nn.functional.silu(gate) * up

    def _rotate(self, x: Tensor, turn: Turn, index: int) -> Tensor:
        """Rotary embedding of [B, n, 1, head_dim] at the step's positions."""
        cos, sin = (table[:, :, index : index + 1] for table in (turn.cos, turn.sin))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, weight.shape, weight, self._epsilon)
