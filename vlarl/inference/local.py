"""Batched decoding of action tokens with a key-value cache, in the learner's process."""

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from vlarl.errors import UserError
from vlarl.inference.base import PublishedWeights
from vlarl.inference.llama_decoding import LlamaStepper
from vlarl.policies.vla import VLAPolicy, at_least_float32
from vlarl.types import Generation, Observation


class LocalGenerator:
    """Decodes B observations at once, among the tokens that the policy's head scores.

    Raises:
        UserError: a temperature that is not positive.
    """

    def __init__(self, policy: VLAPolicy, temperature: float) -> None:
        if not temperature > 0:
            raise UserError(f"the sampling temperature must be positive, got {temperature}; greedy needs no noise")
        self._policy = policy
        self._stepper = LlamaStepper(policy.trunk.decoder)
        self._temperature = temperature
        self.policy_version = 0
        self.num_action_tokens = policy.config.num_action_tokens

    def load(self, published: PublishedWeights) -> None:
        """Takes the learner's module as it is; only the decoder's fused projections are copied."""
        self._policy = published.policy
        self._stepper = LlamaStepper(published.policy.trunk.decoder)
        self.policy_version = published.version

    @torch.no_grad()
    def generate(self, observations: Observation, noise: np.ndarray | None) -> Generation:
        """See ActionGenerator.generate. With noise=None, log-probs and entropy are those at the temperature."""
        policy = self._policy.eval()
        trunk, device = policy.trunk, policy.device
        uniforms = None if noise is None else torch.from_numpy(noise).to(device, torch.float32)
        inputs = trunk.process(observations).map(lambda t: t.to(device))
        embeddings, prompt_mask = trunk.embed_prompt(inputs)
        batch, num_tokens = len(inputs), self.num_action_tokens
        tokens = torch.empty(batch, num_tokens, dtype=torch.int64, device=device)
        logprobs, entropy = torch.empty(2, batch, num_tokens, device=device)
        cache = DynamicCache()
        hidden = trunk.decode(embeddings, prompt_mask, cache)[:, -1]
        self._stepper.begin(cache, prompt_mask, num_tokens - 1)
        for index in range(num_tokens):
            scores = torch.log_softmax(at_least_float32(trunk.logits(hidden)) / self._temperature, dim=-1)
            chosen = _choose(scores, None if uniforms is None else uniforms[:, index])
            tokens[:, index] = chosen + trunk.first_token
            logprobs[:, index] = scores.gather(-1, chosen[:, None]).squeeze(-1)
            entropy[:, index] = -(scores.exp() * scores).sum(-1)
            if index + 1 < num_tokens:
                hidden = self._stepper.step(trunk.embed_actions(tokens[:, index : index + 1], index)[:, 0])
        action_tokens = tokens.cpu().numpy()
        return Generation(
            action_tokens=action_tokens,
            logprobs=logprobs.cpu().numpy(),
            entropy=entropy.cpu().numpy(),
            actions=policy.decode_actions(action_tokens),
        )


def _choose(scores: Tensor, uniform: Tensor | None) -> Tensor:
    """Picks a token per row of log-probabilities [B, tokens]: the largest, or by inverse cumulative sampling."""
    if uniform is None:
        return scores.argmax(-1)
    cumulative = scores.exp().cumsum(-1)
    # Rounding can leave the total a little below one: scale the draw so that the last token is never passed.
    return (
        torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
        .squeeze(-1)
        .clamp_max(scores.shape[-1] - 1)
    )
