"""Decoding rate of the generator against `transformers`' own cached loop, same policy and batch, one run.

python benchmarks/decoding.py [--batch-sizes 8 16 32] [--repeats 10] [--json]
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import DynamicCache

from vlarl.configs.policy import PolicyConfig
from vlarl.inference.base import sampling_noise
from vlarl.inference.local import LocalGenerator
from vlarl.policies.tiny import make_policy
from vlarl.policies.vla import VLAPolicy
from vlarl.types import Observation


def make_observation(config: PolicyConfig, count: int) -> Observation:
    """Random frames with two instructions of different length."""
    rng = np.random.default_rng(0)
    instructions = ("put the bowl on the plate", "pick up the alphabet soup and place it in the basket")
    return Observation(
        images=rng.integers(0, 256, (count, config.image_size, config.image_size, 3), dtype=np.uint8),
        proprio=rng.normal(size=(count, config.proprio_dim)).astype(np.float32),
        instructions=tuple(instructions[i % 2] for i in range(count)),
    )


@torch.no_grad()
def reference_tokens(policy: VLAPolicy, observations: Observation) -> np.ndarray:
    """Greedy decoding through LlamaModel.forward and DynamicCache alone."""
    embeddings, mask = policy.trunk.embed_prompt(policy.trunk.process(observations))
    cache, past, tokens = DynamicCache(), 0, []
    for index in range(policy.config.num_action_tokens):
        hidden = policy.trunk.decode(embeddings, mask, cache, past)[:, -1]
        past = mask.shape[1]
        tokens.append(policy.trunk.head.lm_head(hidden).argmax(-1) + policy.trunk.first_token)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if index + 1 < policy.config.num_action_tokens:
            embeddings = policy.trunk.embed_actions(tokens[-1][:, None], index)
    return torch.stack(tokens, dim=1).numpy()


def seconds_per_call(function: Callable[[], object], repeats: int) -> float:
    """Median over `repeats` calls after one to warm up."""
    function()
    samples = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        samples.append(time.perf_counter() - started)
    return float(np.median(samples))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32], help="observations per call")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls, the median counts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = PolicyConfig()
    policy = make_policy(config).eval()
    generator = LocalGenerator(policy, 0.6)
    rows = []
    for batch in options.batch_sizes:
        observations = make_observation(config, batch)
        noise = np.stack([sampling_noise(0, row, 0, config.num_action_tokens) for row in range(batch)])
        same = bool(
            (reference_tokens(policy, observations) == generator.generate(observations, None).action_tokens).all()
        )
        ours = seconds_per_call(lambda o=observations, n=noise: generator.generate(o, n), options.repeats)
        reference = seconds_per_call(lambda o=observations: reference_tokens(policy, o), options.repeats)
        actions = batch * config.action_horizon
        rows.append(
            {
                "batch_size": batch,
                "same_greedy_tokens": same,
                "actions_per_second": round(actions / ours),
                "transformers_actions_per_second": round(actions / reference),
                "ratio": round(reference / ours, 2),
            }
        )
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
