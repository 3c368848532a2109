"""OpenVLA on one GPU: decoding, PPO updates, memory and checkpoint streaming, on random weights. `make bench-gpu`.

    PYTHONPATH=. python benchmarks/gpu.py [--size 7b] [--output runs/bench-gpu]

Needs torch, transformers and peft; no simulator, no network, no tokenizer. Writes gpu.json and gpu.md. Every rate is
the median of the timed calls, after calls that warm up (and record the CUDA graphs).
"""

import argparse
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from vlarl.algorithms.ppo import Scores, Targets
from vlarl.configs.openvla import LoRAConfig, OpenVLAConfig, OpenVLAPolicyConfig
from vlarl.configs.training import PPOConfig
from vlarl.inference.local import LocalGenerator
from vlarl.policies.openvla.checkpoint import CONFIG_NAME, load_model, open_checkpoint, save_shards
from vlarl.policies.openvla.model import OpenVLAModel
from vlarl.policies.openvla.random_weights import (
    TINY,
    count_parameters,
    make_random_model,
    make_random_policy,
    published_config,
    random_inputs,
    transformers_tokens,
)
from vlarl.policies.value import make_value_network
from vlarl.policies.vla import PolicyInputs
from vlarl.training.batch import RolloutBatch
from vlarl.training.learner import ActorCritic, Learner
from vlarl.training.memory import PROMPT_TOKENS, measure_step, plan_memory

SIZES = {"7b": OpenVLAConfig(), "tiny": TINY}
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 matrix products, by the name of the GPU (vendors' data sheets)."""
MAX_MICROBATCH = 16
BASELINE_ROWS = 8
"""Observations of the per-observation baseline; its rate does not depend on how many there are."""


class Bench:
    """The machine and how often a call is timed."""

    def __init__(self, device: torch.device, warmups: int, repeats: int) -> None:
        self.device, self.warmups, self.repeats = device, warmups, repeats

    def synchronise(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, function: Callable[[], object]) -> float:
        """Median seconds per call."""
        for _ in range(self.warmups):
            function()
        samples = []
        for _ in range(self.repeats):
            self.synchronise()
            started = time.perf_counter()
            function()
            self.synchronise()
            samples.append(time.perf_counter() - started)
        return float(np.median(samples))

    def peak_bytes(self) -> int | None:
        """Most bytes of tensors since the last reset; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def reset(self) -> None:
        """Frees what is cached, and forgets the peak."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def measure_decoding(bench: Bench, model: OpenVLAModel, batch_sizes: list[int]) -> dict[str, Any]:
    """Actions per second of the generator per batch size, and of `generate`, one observation after the other."""
    policy = make_random_policy(model, OpenVLAPolicyConfig(lora=None))
    generator = LocalGenerator(policy, 1.0)
    count, dtype = policy.config.num_action_tokens, model.language_model.dtype

    def inputs_for(batch: int) -> PolicyInputs:
        return random_inputs(model.config, batch, PROMPT_TOKENS).map(lambda t: t.to(bench.device))

    few = inputs_for(min(BASELINE_ROWS, max(batch_sizes)))

    @torch.no_grad()
    def baseline() -> torch.Tensor:
        pixels = policy.trunk.processor.normalize(few.images).to(dtype)
        return transformers_tokens(model, pixels, few, count)

    same = (generator.decode(few, None)[0] == baseline()).float().mean().item()
    alone = len(few) / bench.seconds(baseline)
    rows = []
    for batch in batch_sizes:
        inputs = inputs_for(batch)
        draws = torch.rand(batch, count, device=bench.device)
        rate = batch / bench.seconds(lambda i=inputs, d=draws: generator.decode(i, d))
        rows.append({"batch_size": batch, "actions_per_second": rate, "ratio": rate / alone})
    return {"generate_actions_per_second": alone, "same_greedy_tokens": same, "batches": rows}


def update_flops(sizes: OpenVLAConfig, model: OpenVLAModel, positions: int, action_tokens: int) -> float:
    """Operations of one turn's update: forward pass and gradients of inputs, of policy and value network.

    Frozen weights have no gradient of their own, and what checkpointing computes again does not count.
    """
    text = sizes.text
    layers = count_parameters(model.language_model.model.layers)
    towers = count_parameters(model.vision_backbone) + count_parameters(model.projector)
    head = text["vocab_size"] * text["hidden_size"]
    attention = 2 * text["num_hidden_layers"] * positions**2 * text["hidden_size"]
    trunk = 2 * (layers * positions + towers * sizes.num_patches) + attention
    return 2 * (2 * trunk + 2 * head * action_tokens)


def make_batch(sizes: OpenVLAConfig, count: int, num_tokens: int) -> RolloutBatch:
    """`count` turns with random tokens, advantages and returns."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, num_tokens)
    low = sizes.action_vocab_size - sizes.num_bins
    return RolloutBatch(
        inputs=random_inputs(sizes, count, PROMPT_TOKENS),
        elapsed_steps=torch.zeros(count, dtype=torch.int64),
        action_tokens=torch.randint(low, sizes.action_vocab_size, shape, generator=generator),
        scores=Scores(
            values=torch.zeros(count),
            final_values=torch.zeros(1),
            old_logprobs=torch.full(shape, -5.0),
            ref_logprobs=None,
        ),
        targets=Targets(
            advantages=torch.randn(count, generator=generator),
            returns=torch.rand(count, generator=generator),
            token_mask=torch.ones(shape, dtype=torch.bool),
        ),
    )


def measure_update(bench: Bench, model: OpenVLAModel, rank: int, memory_gb: float) -> dict[str, Any]:
    """Tokens per second, share of the peak rate and memory of the learner's own PPO update."""
    sizes = model.config
    config = OpenVLAPolicyConfig(lora=LoRAConfig(rank=rank), gradient_checkpointing=True)
    step = measure_step(sizes, config, "homogeneous", dtype=model.language_model.dtype)
    plan = plan_memory(step, gpus=1, gpu_memory_gb=memory_gb)
    microbatch = max(1, min(MAX_MICROBATCH, plan.largest_microbatch))
    positions = sizes.num_patches + PROMPT_TOKENS + config.num_action_tokens - 1
    operations = update_flops(sizes, model, positions, config.num_action_tokens)
    policy = make_random_policy(model, config)
    actor_critic = ActorCritic(policy, make_value_network(policy))
    ppo = PPOConfig(minibatch_size=2 * microbatch, microbatch_size=microbatch, update_epochs=1, target_kl=None)
    learner = Learner(actor_critic, None, ppo, 0)
    batch = make_batch(sizes, 2 * microbatch, config.num_action_tokens)
    bench.reset()
    seconds = bench.seconds(lambda: learner.update(batch, 1, critic_only=False))
    peak, planned = bench.peak_bytes(), plan.step_bytes(microbatch)
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else ""
    tflops = next((value for key, value in PEAK_TFLOPS.items() if key in name), None)
    rate = len(batch.action_tokens) * operations / seconds / 1e12
    return {
        "microbatch_size": microbatch,
        "minibatch_size": 2 * microbatch,
        "seconds_per_update": seconds,
        "positions_per_turn": positions,
        "tokens_per_second": len(batch.action_tokens) * positions / seconds,
        "tflops": rate,
        "mfu": None if tflops is None else rate / tflops,
        "peak_bytes": peak,
        "planned_bytes": planned,
        "planned_to_measured": None if peak is None else planned / peak,
    }


def measure_streaming(bench: Bench, model: OpenVLAModel, folder: Path) -> dict[str, Any]:
    """Seconds from disk (the page cache, where the file fits) to the device, tensor by tensor."""
    (folder / CONFIG_NAME).write_text(json.dumps(published_config(model.config)))
    save_shards(model.state_dict(), folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    started = time.perf_counter()
    loaded = load_model(open_checkpoint(folder), device=bench.device)
    bench.synchronise()
    seconds = time.perf_counter() - started
    del loaded
    return {"gigabytes": size / 1e9, "seconds": seconds, "gb_per_second": size / 1e9 / seconds}


def markdown(result: dict[str, Any]) -> str:
    """The figures as tables."""

    def number(value: float | None, form: str = ".2f") -> str:
        return "not measured" if value is None else format(value, form)

    decoding, update, streaming = result["decoding"], result["update"], result["streaming"]
    lines = [
        f"# OpenVLA {result['size']} on {result['device']}",
        "",
        f"torch {result['torch']}, transformers {result['transformers']}, Python {result['python']}, {result['dtype']},"
        f" {result['parameters']:,} parameters, random weights.",
        "",
        "| decoding, batch | actions/s | to `generate` |",
        "|---|---|---|",
        f"| `generate`, one by one | {number(decoding['generate_actions_per_second'])} | 1.00 |",
    ]
    lines += [
        f"| {row['batch_size']} | {number(row['actions_per_second'])} | {number(row['ratio'])} |"
        for row in decoding["batches"]
    ]
    rows = {
        "same greedy tokens as `generate`": number(100 * decoding["same_greedy_tokens"], ".1f") + " %",
        "PPO update, micro-batch": str(update["microbatch_size"]),
        "PPO update, tokens/s": number(update["tokens_per_second"], ".0f"),
        "PPO update, TFLOP/s": number(update["tflops"], ".3g"),
        "PPO update, MFU": "not known" if update["mfu"] is None else f"{100 * update['mfu']:.1f} %",
        "peak memory, GB": number(None if update["peak_bytes"] is None else update["peak_bytes"] / 1e9),
        "planned memory, GB": number(update["planned_bytes"] / 1e9, ".3g"),
        "planned to measured": number(update["planned_to_measured"]),
        "checkpoint streaming, GB/s": f"{number(streaming['gb_per_second'])} of {streaming['gigabytes']:.2f} GB",
    }
    lines += ["", "| what | figure |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints the table and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="7b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--warmups", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/bench-gpu"))
    options = parser.parse_args()
    device = torch.device(options.device)
    sizes, bench = SIZES[options.size], Bench(device, options.warmups, options.repeats)
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    torch.manual_seed(0)
    model = make_random_model(sizes, device=device, dtype=dtype)
    name, memory_gb = platform.processor() or platform.machine(), 16.0
    if on_gpu:
        name, memory_gb = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1] / 1e9
    result: dict[str, Any] = {
        "size": options.size,
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": count_parameters(model),
    }
    result["decoding"] = measure_decoding(bench, model, options.batch_sizes)
    bench.reset()
    options.output.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=options.output))
    try:
        result["streaming"] = measure_streaming(bench, model, scratch)
    finally:
        shutil.rmtree(scratch)
    # Last: the adapters go into the model.
    rank = 32 if options.size == "7b" else 4
    result["update"] = measure_update(bench, model, rank, memory_gb)
    table = markdown(result)
    (options.output / "gpu.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.output / "gpu.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
