"""Actions per second of vLLM, the local generator and transformers' `generate`: same weights, one run.

python benchmarks/generation.py                    a small random OpenVLA on the CPU; needs vlarl[vllm] for its column
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from vlarl.configs.openvla import OpenVLAConfig, OpenVLAPolicyConfig, VisionTowerConfig
from vlarl.inference.base import PublishedWeights
from vlarl.inference.local import LocalGenerator
from vlarl.inference.vllm import VllmGenerator
from vlarl.policies.openvla.random_weights import (
    make_random_model,
    make_random_policy,
    random_inputs,
    transformers_tokens,
)
from vlarl.training.memory import PROMPT_TOKENS

SIZES = OpenVLAConfig(
    dino=VisionTowerConfig(width=48, depth=2, num_heads=4, mlp_width=96),
    siglip=VisionTowerConfig(width=64, depth=2, num_heads=4, mlp_width=128, num_registers=0),
    text={
        "vocab_size": 2112,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
)
"""256 image patches before a decoder for a CPU; vLLM's attention takes heads of 32 channels or more there."""


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median of the process's computing time, which other jobs do not change, without the first call."""
    samples = []
    for index in range(1 + repeats):
        started = time.process_time()
        function()
        if index:
            samples.append(time.process_time() - started)
    return float(np.median(samples))


@torch.no_grad()
def measure(batch: int, repeats: int) -> dict[str, Any]:
    """Greedy turns of `batch` observations, vision included; other prompts in every call, as in a rollout."""
    torch.manual_seed(0)
    model = make_random_model(SIZES, device="cpu", dtype=torch.float32)
    policy = make_random_policy(model, OpenVLAPolicyConfig(lora=None, libero_frames=False)).eval()
    count = policy.config.num_action_tokens
    calls = iter(range(1_000_000))

    def inputs() -> Any:  # noqa: ANN401 - PolicyInputs
        return random_inputs(SIZES, batch, PROMPT_TOKENS, seed=next(calls))

    local = LocalGenerator(policy, 1.0)
    row: dict[str, Any] = {"batch_size": batch}
    row["local"] = batch / seconds(lambda: local.decode(inputs(), None), repeats)

    def reference() -> object:
        drawn = inputs()
        return transformers_tokens(model, policy.trunk.processor.normalize(drawn.images), drawn, count)

    row["generate"] = batch / seconds(reference, repeats)
    if find_spec("vllm") is not None:
        engine = VllmGenerator(policy, 1.0)
        engine.load(PublishedWeights(version=0, policy=policy))

        def served() -> object:
            embeddings, mask = policy.trunk.embed_prompt(inputs())
            return engine.decode([row[real] for row, real in zip(embeddings, mask, strict=True)], None)[0]

        row["vllm"] = batch / seconds(served, repeats)
        drawn = random_inputs(SIZES, batch, PROMPT_TOKENS)
        embeddings, mask = policy.trunk.embed_prompt(drawn)
        tokens, _ = engine.decode([row[real] for row, real in zip(embeddings, mask, strict=True)], None)
        row["same_greedy_tokens"] = float((local.decode(drawn, None)[0].numpy() == tokens).all(1).mean())
    return row


def main() -> None:
    """Measures and prints actions per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for batch in options.batch_sizes:
        print(json.dumps({k: round(v, 2) for k, v in measure(batch, options.repeats).items()}), flush=True)


if __name__ == "__main__":
    main()
