"""The parts of a one-token step that are no matrix product, compiled for a CPU.

With a tiny decoder most of a step went into torch's small operations, not into arithmetic. Weights and activations are
float32.
"""

# ruff: noqa: ANN001, ANN202
# Compiled functions get their types from the call; what each takes is said there.
import numba
import numpy as np
import torch
from torch import Tensor

from vlarl.inference.llama_decoding import LlamaStepper, Turn

_MATH = {"reassoc", "contract", "arcp", "nsz"}
"""Sums may be taken in vector registers."""


@numba.njit(cache=True, nogil=True, fastmath=_MATH)
def _write_rms_norm(x, weight, eps, out):
    """Of each row of x [B, width]; weight is [width]."""
    rows, width = x.shape
    for row in range(rows):
        total = np.float32(0)
        for i in range(width):
            total += x[row, i] * x[row, i]
        scale = np.float32(1) / np.sqrt(total / np.float32(width) + np.float32(eps))
        for i in range(width):
            out[row, i] = x[row, i] * scale * weight[i]


@numba.njit(cache=True, nogil=True, fastmath=_MATH)
def _exponentiate(x, powers):
    """Takes exp of each entry of x [n], in place, to two units in the last place; below -87 that of -87.

    The library's function takes one number at a time. Here exp(x) = 2^k exp(r), r within ln(2) / 2 of zero.

    Args:
        x: at most 88.
        powers: int32, room for at least n numbers.
    """
    for i in range(len(x)):
        clipped = max(x[i], np.float32(-87))
        k = np.floor(clipped * np.float32(1.4426950408889634) + np.float32(0.5))
        # ln(2) in two parts, so that k times the first is exact.
        r = (clipped - k * np.float32(0.693359375)) + k * np.float32(2.12194440e-4)
        powers[i] = (np.int32(k) + np.int32(127)) << np.int32(23)
        p = np.float32(1 / 120) + r * (np.float32(1 / 720) + r * np.float32(1 / 5040))
        p = np.float32(0.5) + r * (np.float32(1 / 6) + r * (np.float32(1 / 24) + r * p))
        x[i] = np.float32(1) + r * (np.float32(1) + r * p)
    # The bits of 2^k.
    scales = powers.view(np.float32)
    for i in range(len(x)):
        x[i] *= scales[i]


@numba.njit(cache=True, nogil=True, fastmath=_MATH)
def _write_gated(gate_up, out):
    """SiLU of the first half of [B, 2 F] times the second half."""
    rows, width = out.shape
    powers = np.empty(width, np.int32)
    for row in range(rows):
        for i in range(width):
            out[row, i] = min(-gate_up[row, i], np.float32(87))
        _exponentiate(out[row], powers)
        for i in range(width):
            out[row, i] = gate_up[row, i] / (np.float32(1) + out[row, i]) * gate_up[row, width + i]


@numba.njit(cache=True, nogil=True, fastmath=_MATH)
def _rotate(x, cos, sin, scale, out):
    """Rotary embedding of one head's vector, times a scale."""
    half = len(x) // 2
    for i in range(half):
        out[i] = (x[i] * cos[i] - x[half + i] * sin[i]) * scale
        out[half + i] = (x[half + i] * cos[half + i] + x[i] * sin[half + i]) * scale


@numba.njit(cache=True, nogil=True, fastmath=_MATH)
def _write_head(query, keys, values, bias, scores, powers, out):
    """Attention of one rotated and scaled query over the keys and values [T, head_dim]."""
    end, size = keys.shape
    highest, total = np.float32(-np.inf), np.float32(0)
    for t in range(end):
        score = np.float32(0)
        for i in range(size):
            score += query[i] * keys[t, i]
        scores[t] = score + bias[t]
        highest = max(highest, scores[t])
    for t in range(end):
        scores[t] -= highest
    _exponentiate(scores, powers)
    for t in range(end):
        total += scores[t]
    out[:] = 0
    # Four positions at a time: the sums are read and written a quarter as often.
    for t in range(0, end - 3, 4):
        a, b, c, d = scores[t], scores[t + 1], scores[t + 2], scores[t + 3]
        for i in range(size):
            out[i] += a * values[t, i] + b * values[t + 1, i] + c * values[t + 2, i] + d * values[t + 3, i]
    for t in range(end - end % 4, end):
        for i in range(size):
            out[i] += scores[t] * values[t, i]
    for i in range(size):
        out[i] /= total


@numba.njit(cache=True, nogil=True, fastmath=_MATH)
def _write_attended(projected, heads, index, cos, sin, keys, values, bias, end, out):
    """Stores the new position's key and value and attends to all positions up to it.

    Args:
        projected: [B, (heads + 2 groups) * head_dim], the queries, keys and values of the new position.
        heads: of queries.
        index: of the step.
        cos: [B, 1, steps, head_dim].
        sin: as cos.
        keys: [B, groups, T, head_dim].
        values: as keys.
        bias: [B, 1, 1, T].
        end: positions up to the new one, at most T.
        out: [B, heads * head_dim].
    """
    rows, groups, _, size = keys.shape
    query, scores, powers = np.empty(size, np.float32), np.empty(end, np.float32), np.empty(end, np.int32)
    scale, share = np.float32(1 / np.sqrt(size)), heads // groups
    for row in range(rows):
        parts, attended = projected[row].reshape(-1, size), out[row].reshape(-1, size)
        row_cos, row_sin, row_bias = cos[row, 0, index], sin[row, 0, index], bias[row, 0, 0]
        for group in range(groups):
            seen, read = keys[row, group, :end], values[row, group, :end]
            _rotate(parts[heads + group], row_cos, row_sin, np.float32(1), seen[end - 1])
            read[end - 1] = parts[heads + groups + group]
            for head in range(group * share, (group + 1) * share):
                _rotate(parts[head], row_cos, row_sin, scale, query)
                _write_head(query, seen, read, row_bias, scores, powers, attended[head])


@numba.njit(cache=True, nogil=True, fastmath=_MATH)
def _write_choices(logits, temperature, is_greedy, uniforms, chosen, logprobs, entropy):
    """As local.choose, for logits [B, tokens]; the others are [B]."""
    rows, size = logits.shape
    scores, shares, powers = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.int32)
    for row in range(rows):
        highest, total, weighted = np.float32(-np.inf), np.float32(0), np.float32(0)
        for i in range(size):
            scores[i] = logits[row, i] / temperature
            highest = max(highest, scores[i])
        for i in range(size):
            scores[i] -= highest
            shares[i] = scores[i]
        _exponentiate(shares, powers)
        for i in range(size):
            total += shares[i]
            # As _exponentiate does: a token that is masked has next to no share, and none in the entropy.
            weighted += shares[i] * max(scores[i], np.float32(-87))
        picked = 0
        if is_greedy:
            while picked < size - 1 and scores[picked] < 0:
                picked += 1
        else:
            # Sums in another order may differ in the last bit: the last token is never passed.
            left = uniforms[row] * total - shares[0]
            while left >= 0 and picked < size - 1:
                picked += 1
                left -= shares[picked]
        log_total = np.log(total)
        chosen[row] = picked
        logprobs[row] = scores[picked] - log_total
        entropy[row] = log_total - weighted / total


def choose_on_cpu(logits: Tensor, temperature: float, uniform: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """local.choose for float32 on a CPU."""
    chosen = torch.empty(len(logits), dtype=torch.int64)
    logprobs, entropy = torch.empty(2, len(logits))
    uniforms = logprobs if uniform is None else uniform
    _write_choices(
        *(logits.numpy(), np.float32(temperature), uniform is None, uniforms.numpy()),
        *(chosen.numpy(), logprobs.numpy(), entropy.numpy()),
    )
    return chosen, logprobs, entropy


class CpuStepper(LlamaStepper):
    """LlamaStepper for float32 on a CPU."""

    def _attend(self, turn: Turn, number: int, projected: Tensor, index: int) -> Tensor:
        out = projected.new_empty(len(projected), self._heads * self._head_dim)
        keys, values = turn.caches[number]
        _write_attended(
            *(projected.numpy(), self._heads, index, turn.cos.numpy(), turn.sin.numpy()),
            *(keys.numpy(), values.numpy(), turn.bias.numpy(), turn.length + index + 1, out.numpy()),
        )
        return out

    def _gate(self, gate_up: Tensor) -> Tensor:
        out = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        _write_gated(gate_up.numpy(), out.numpy())
        return out

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty_like(x)
        _write_rms_norm(x.numpy(), weight.numpy(), self._epsilon, out.numpy())
        return out
