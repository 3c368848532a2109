"""vLLM as the generator of an OpenVLA policy: its Llama gets prompts as embeddings, so vLLM needs no model of ours.

The vision towers, the projector and the text embeddings stay outside, in the policy. Only this file imports vllm.
"""

import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
import torch
import torch._dynamo
from torch import Tensor

from vlarl.errors import UserError
from vlarl.inference.base import PublishedWeights
from vlarl.policies.vla import VLAPolicy
from vlarl.types import Generation, Observation

T = TypeVar("T")

_IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
_ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


class VllmGenerator:
    """Decodes with vLLM, in this process.

    Log-probs are those of the sampling distribution, so they agree with the learner's to rounding. Entropy is estimated
    by -log-prob, whose mean it is: vLLM gives no whole distributions.

    An engine that raised is not asked again (vLLM's next request would hang): the next call starts a new one.

    Raises:
        UserError: vllm is not installed, the policy is none that it can serve, or the temperature is not positive.
    """

    def __init__(self, policy: VLAPolicy, temperature: float, *, max_batch: int = 64) -> None:
        if find_spec("vllm") is None:
            raise UserError("--roles.generator vllm needs vLLM, which is not installed: pip install 'vlarl[vllm]'")
        if not hasattr(policy.trunk, "openvla"):
            raise UserError(
                "--roles.generator vllm serves OpenVLA policies; the tiny one marks its action tokens in a way of its"
                " own: take --roles.generator local"
            )
        if not temperature > 0:
            raise UserError(f"the sampling temperature must be positive, got {temperature}; greedy needs no noise")
        self.policy_version = 0
        self.num_action_tokens = policy.config.num_action_tokens
        self._policy = policy
        self._temperature = temperature
        self._max_batch = max_batch
        self._engine: Any = None

    def load(self, published: PublishedWeights) -> None:
        """Takes the policy's weights into the engine and forgets keys and values of the old ones."""
        self._policy = published.policy
        self._use(self._take_weights)
        self.policy_version = published.version

    def generate(self, observations: Observation, noise: np.ndarray | None) -> Generation:
        """See ActionGenerator.generate; the noise seeds vLLM's own. Greedy log-probs are at temperature 1."""
        policy = self._policy
        inputs = policy.trunk.process(observations).map(lambda t: t.to(policy.device))
        with torch.no_grad():
            embeddings, mask = policy.trunk.embed_prompt(inputs)
        tokens, logprobs = self.decode([row[real] for row, real in zip(embeddings, mask, strict=True)], noise)
        return Generation(
            action_tokens=tokens, logprobs=logprobs, entropy=-logprobs, actions=policy.decode_actions(tokens)
        )

    def decode(self, prompts: list[Tensor], noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Decodes one turn per prompt.

        Args:
            prompts: B times [length, width], in the dtype of the policy's weights, without padding.
            noise: [B, K] float64 in [0, 1); None decodes greedily.

        Returns:
            Tokens int64 and log-probs float32, both [B, K].

        Raises:
            ValueError: a prompt of another width, dtype or length: the engine would hang on it.
        """
        for prompt in prompts:
            self._check(prompt)
        seeds = None if noise is None else [int(row[0] * 2**53) % 2**31 for row in noise]
        outputs = self._use(lambda: self._request(prompts, seeds))
        tokens = np.array([output.outputs[0].token_ids for output in outputs], dtype=np.int64)
        chosen = [
            [step[token].logprob for step, token in zip(o.outputs[0].logprobs, o.outputs[0].token_ids, strict=True)]
            for o in outputs
        ]
        return tokens, np.array(chosen, dtype=np.float32)

    def _check(self, prompt: Tensor) -> None:
        weight = self._policy.trunk.decoder.embed_tokens.weight
        limit = self._policy.trunk.decoder.config.max_position_embeddings - self.num_action_tokens
        if prompt.ndim != 2 or prompt.shape[1] != weight.shape[1] or not 0 < len(prompt) <= limit:
            raise ValueError(f"a prompt is [1 to {limit}, {weight.shape[1]}] for this policy, got {list(prompt.shape)}")
        if prompt.dtype != weight.dtype:
            raise ValueError(f"a prompt is {weight.dtype} for this policy, got {prompt.dtype}")

    def _use(self, function: Callable[[], T]) -> T:
        """Calls with an engine; what it raises ends the engine."""
        # The engine moves the global random state, which is the caller's.
        with torch.random.fork_rng():
            try:
                if self._engine is None:
                    self._engine = self._start()
                    self._take_weights()
                return function()
            except Exception:
                self._engine = None
                raise

    def _take_weights(self) -> None:
        weights = self._policy.trunk.openvla.language_model.state_dict()
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        # Keys and values of a known prompt would be those of the old weights.
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running")

    def _request(self, prompts: list[Tensor], seeds: list[int] | None) -> list[Any]:
        from vllm import SamplingParams

        trunk = self._policy.trunk
        shared = {
            "max_tokens": self.num_action_tokens,
            "logprobs": 0,
            "detokenize": False,
            "ignore_eos": True,
            "allowed_token_ids": list(range(trunk.first_token, trunk.end_token)),
        }
        if seeds is None:
            params = [SamplingParams(temperature=0.0, **shared) for _ in prompts]
        else:
            params = [SamplingParams(temperature=self._temperature, seed=seed, **shared) for seed in seeds]
        return self._engine.generate([{"prompt_embeds": p} for p in prompts], params, use_tqdm=False)

    def _start(self) -> Any:  # noqa: ANN401 - vllm.LLM
        on_cpu = self._policy.device.type == "cpu"
        for name, value in (_IN_PROCESS | (_ON_CPU if on_cpu else {})).items():
            os.environ.setdefault(name, value)
        if on_cpu:
            # Compiling the ranking of log-probs takes 17 s there, and the ranks are not used.
            torch._dynamo.config.disable = True
        from vllm import LLM

        decoder = self._policy.trunk.decoder
        config = decoder.config.to_dict() | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
        with tempfile.TemporaryDirectory(prefix="vlarl-vllm-") as folder:
            type(decoder.config)(**config).save_pretrained(folder)
            return LLM(
                folder,
                skip_tokenizer_init=True,
                # The weights come from the policy.
                load_format="dummy",
                dtype=str(decoder.embed_tokens.weight.dtype).removeprefix("torch."),
                enforce_eager=on_cpu,
                max_model_len=decoder.config.max_position_embeddings,
                enable_prompt_embeds=True,
                logprobs_mode="processed_logprobs",
                max_num_seqs=self._max_batch,
                seed=0,
            )
