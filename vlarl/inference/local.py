"""Batched decoding of action tokens with a key-value cache, in the learner's process."""

import importlib.util
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaModel

from vlarl.errors import UserError
from vlarl.inference.base import PublishedWeights
from vlarl.inference.captured import CapturedCall
from vlarl.inference.llama_decoding import LlamaStepper, PromptCache, Turn
from vlarl.policies.vla import PolicyInputs, VLAPolicy, at_least_float32
from vlarl.types import Generation, Observation

Decoded = tuple[Tensor, Tensor, Tensor]
"""Tokens int64, log-probs and entropy float32, each [B, K]."""
ROWS = 8
"""On a GPU batches of more than one are rounded up to powers of two, at least this: few graphs serve all batches."""
POSITIONS = 32
"""On a GPU prompts are rounded up to multiples of this."""


class LocalGenerator:
    """Decodes B observations at once, among the tokens that the policy's head scores.

    On a GPU the steps of a turn are one CUDA graph per rounded batch size and prompt length.

    Raises:
        UserError: a temperature that is not positive.
    """

    def __init__(self, policy: VLAPolicy, temperature: float, *, round_sizes: bool | None = None) -> None:
        """`round_sizes` rounds shapes up as on a GPU; None: on a GPU only."""
        if not temperature > 0:
            raise UserError(f"the sampling temperature must be positive, got {temperature}; greedy needs no noise")
        self._temperature = temperature
        self._round_sizes = policy.device.type == "cuda" if round_sizes is None else round_sizes
        self.policy_version = 0
        self.num_action_tokens = policy.config.num_action_tokens
        self._take(policy)

    def load(self, published: PublishedWeights) -> None:
        """Takes the learner's module as it is; only the decoder's fused projections are copied."""
        if published.policy is self._policy:
            self._stepper.refresh()
        else:
            self._take(published.policy)
        self.policy_version = published.version

    def generate(self, observations: Observation, noise: np.ndarray | None) -> Generation:
        """See ActionGenerator.generate. With noise=None, log-probs and entropy are those at the temperature."""
        policy = self._policy
        inputs = policy.trunk.process(observations).map(lambda t: t.to(policy.device))
        uniforms = None if noise is None else torch.from_numpy(noise).to(policy.device, torch.float32)
        tokens, logprobs, entropy = (t.cpu().numpy() for t in self.decode(inputs, uniforms))
        return Generation(
            action_tokens=tokens, logprobs=logprobs, entropy=entropy, actions=policy.decode_actions(tokens)
        )

    @torch.no_grad()
    def decode(self, inputs: PolicyInputs, uniforms: Tensor | None) -> Decoded:
        """Decodes one turn per prompt, on the policy's device.

        Args:
            inputs: B prompts.
            uniforms: [B, K] float32 in [0, 1), which alone decides what is sampled; None decodes greedily.
        """
        trunk = self._policy.eval().trunk
        embeddings, mask = trunk.embed_prompt(inputs)
        batch = len(mask)
        turn, draws, steps = self._turn(*self._sizes(*mask.shape), greedy=uniforms is None)
        hidden = trunk.decode(embeddings, mask, PromptCache(turn.caches))[:, -1]
        self._stepper.begin(turn, hidden, mask)
        if uniforms is not None:
            draws[:batch] = uniforms
        tokens, logprobs, entropy = steps()
        return tokens[:batch].clone(), logprobs[:batch].clone(), entropy[:batch].clone()

    def _take(self, policy: VLAPolicy) -> None:
        self._policy = policy
        self._stepper = _make_stepper(policy.trunk.decoder, _is_compiled(policy))
        self._turns: dict[tuple[int, int, bool], tuple[Turn, Tensor, CapturedCall[Decoded]]] = {}

    def _sizes(self, batch: int, length: int) -> tuple[int, int]:
        if not self._round_sizes:
            return batch, length
        return batch if batch == 1 else max(ROWS, 1 << (batch - 1).bit_length()), -(-length // POSITIONS) * POSITIONS

    def _turn(self, batch: int, length: int, *, greedy: bool) -> tuple[Turn, Tensor, CapturedCall[Decoded]]:
        """The turn's tensors, its draws [B, K] and the call that takes its steps; made once per size."""
        key = (batch, length, greedy)
        if key not in self._turns:
            device = self._policy.device
            turn, moved = self._stepper.make_turn(batch, length, self.num_action_tokens - 1)
            if moved:
                self._turns.clear()
            draws = torch.zeros(batch, self.num_action_tokens, device=device)
            # Not a method of this object, which would be in a cycle with its own weights: they are to go at once.
            steps = CapturedCall(
                partial(_sample_turn, self._policy, self._stepper, turn, self._temperature, None if greedy else draws),
                device,
            )
            self._turns[key] = turn, draws, steps
        return self._turns[key]


def _is_compiled(policy: VLAPolicy) -> bool:
    """Whether the small operations of a step are compiled functions; a machine that only trains may lack numba."""
    is_float32_on_cpu = policy.device.type == "cpu" and policy.trunk.decoder.norm.weight.dtype == torch.float32
    return is_float32_on_cpu and importlib.util.find_spec("numba") is not None


def _make_stepper(decoder: LlamaModel, is_compiled: bool) -> LlamaStepper:
    if not is_compiled:
        return LlamaStepper(decoder)
    # Here: a machine that decodes on a GPU needs no compiler's cache.
    from vlarl.inference.cpu_decoding import CpuStepper

    return CpuStepper(decoder)


def _chooser(is_compiled: bool) -> Callable[[Tensor, float, Tensor | None], tuple[Tensor, Tensor, Tensor]]:
    if not is_compiled:
        return choose
    from vlarl.inference.cpu_decoding import choose_on_cpu

    return choose_on_cpu


def _sample_turn(
    policy: VLAPolicy, stepper: LlamaStepper, turn: Turn, temperature: float, uniforms: Tensor | None
) -> Decoded:
    """Samples a turn's tokens one after the other; never waits for the device."""
    trunk, hidden = policy.trunk, turn.hidden
    batch, num_tokens = len(hidden), policy.config.num_action_tokens
    tokens = torch.empty(batch, num_tokens, dtype=torch.int64, device=hidden.device)
    logprobs, entropy = torch.empty(2, batch, num_tokens, device=hidden.device)
    choose_tokens = _chooser(_is_compiled(policy))
    for index in range(num_tokens):
        uniform = None if uniforms is None else uniforms[:, index]
        chosen, logprobs[:, index], entropy[:, index] = choose_tokens(trunk.logits(hidden), temperature, uniform)
        tokens[:, index] = chosen + trunk.first_token
        if index + 1 < num_tokens:
            hidden = stepper.step(turn, trunk.embed_actions(tokens[:, index : index + 1], index)[:, 0], index)
    return tokens, logprobs, entropy


def choose(logits: Tensor, temperature: float, uniform: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Picks a token per row of logits [B, tokens]: the largest, or by inverse cumulative sampling of `uniform` [B].

    Returns:
        Indices int64, their log-probabilities at the temperature and the distributions' entropies, each [B].
    """
    scores = torch.log_softmax(at_least_float32(logits) / temperature, dim=-1)
    chosen = scores.argmax(-1) if uniform is None else _sample(scores, uniform)
    return chosen, scores.gather(-1, chosen[:, None]).squeeze(-1), -(scores.exp() * scores).sum(-1)


def _sample(scores: Tensor, uniform: Tensor) -> Tensor:
    cumulative = scores.exp().cumsum(-1)
    # Rounding can leave the total a little below one: scale the draw so that the last token is never passed.
    return (
        torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
        .squeeze(-1)
        .clamp_max(scores.shape[-1] - 1)
    )
