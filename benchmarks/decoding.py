"""Decoding rate of the generator against `transformers`, same weights, one run.

python benchmarks/decoding.py                      the quickstart's policy against LlamaModel's loop on the batch
python benchmarks/decoding.py --policy openvla     against a loop over `generate`; --image-size 224: 256 patches
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from vlarl.configs.openvla import OpenVLAPolicyConfig
from vlarl.configs.policy import PolicyConfig
from vlarl.inference.base import sampling_noise
from vlarl.inference.local import LocalGenerator
from vlarl.policies.openvla.random_weights import (
    TINY,
    make_random_model,
    make_random_policy,
    random_inputs,
    transformers_tokens,
)
from vlarl.policies.tiny import make_policy
from vlarl.policies.vla import VLAPolicy
from vlarl.training.memory import PROMPT_TOKENS
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


def seconds_per_call(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Medians over `repeats` calls of each, in turn, after one each to warm up.

    Processor time of the one thread that runs: other jobs on the machine are not counted.
    """
    samples: list[list[float]] = [[], []]
    for index in range(1 + repeats):
        for side, function in enumerate((ours, theirs)):
            started = time.process_time()
            function()
            if index:
                samples[side].append(time.process_time() - started)
    return float(np.median(samples[0])), float(np.median(samples[1]))


def measure_tiny(batch: int, repeats: int) -> dict[str, Any]:
    """The quickstart's policy against LlamaModel's own cached loop on the same batch."""
    config = PolicyConfig()
    torch.manual_seed(0)
    policy = make_policy(config).eval()
    generator = LocalGenerator(policy, 0.6)
    observations = make_observation(config, batch)
    noise = np.stack([sampling_noise(0, row, 0, config.num_action_tokens) for row in range(batch)])
    tokens = generator.generate(observations, None).action_tokens
    same = bool((reference_tokens(policy, observations) == tokens).all())
    ours, theirs = seconds_per_call(
        lambda: generator.generate(observations, noise), lambda: reference_tokens(policy, observations), repeats
    )
    return figures(batch, same, batch * config.action_horizon, ours, theirs)


@torch.no_grad()
def measure_openvla(batch: int, repeats: int, image_size: int) -> dict[str, Any]:
    """OpenVLA's layout at the reference checkpoint's widths against `generate`, one observation after the other."""
    torch.manual_seed(0)
    model = make_random_model(replace(TINY, image_size=image_size), device="cpu", dtype=torch.float32)
    policy = make_random_policy(model, OpenVLAPolicyConfig(lora=None, libero_frames=False))
    generator, count = LocalGenerator(policy, 1.0), policy.config.num_action_tokens
    inputs = random_inputs(model.config, batch, PROMPT_TOKENS)

    def reference() -> torch.Tensor:
        return transformers_tokens(model, policy.trunk.processor.normalize(inputs.images), inputs, count)

    same = bool((generator.decode(inputs, None)[0] == reference()).all())
    ours, theirs = seconds_per_call(lambda: generator.decode(inputs, None), reference, repeats)
    return {"patches": model.config.num_patches} | figures(batch, same, batch, ours, theirs)


def figures(batch: int, same: bool, actions: int, ours: float, theirs: float) -> dict[str, Any]:
    """Rates and their ratio."""
    return {
        "batch_size": batch,
        "same_greedy_tokens": same,
        "actions_per_second": round(actions / ours, 1),
        "transformers_actions_per_second": round(actions / theirs, 1),
        "ratio": round(theirs / ours, 2),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=("tiny", "openvla"), default="tiny")
    parser.add_argument("--image-size", type=int, default=TINY.image_size, help="openvla: 56 has 16 patches, 224 256")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 64], help="observations per call")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls of each side, in turn; the median counts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for batch in options.batch_sizes:
        if options.policy == "tiny":
            rows.append(measure_tiny(batch, options.repeats))
        else:
            rows.append(measure_openvla(batch, options.repeats, options.image_size))
        if not options.json:
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
