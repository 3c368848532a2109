"""Env steps per second of the rollout phase: LIBERO workers, batched autoregressive decoding, as in training.

    python benchmarks/rollout.py [--policy runs/quickstart/sft/policy] [--trajectories 64] [--num-envs 32] [--json]

Without --policy the quickstart's policy with random weights acts, so that every trajectory runs to its limit.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from vlarl.envs.base import environment_module, make_spec
from vlarl.envs.vector import VectorEnv
from vlarl.inference.local import LocalGenerator
from vlarl.policies.checkpoint import load_policy
from vlarl.recipes import quickstart
from vlarl.rollout.collector import Collector
from vlarl.rollout.task_sampler import TaskSampler
from vlarl.system import machine_card
from vlarl.training.build import make_policy


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="policy folder")
    parser.add_argument("--trajectories", type=int, default=64, help="per timed rollout")
    parser.add_argument("--rollouts", type=int, default=2, help="timed rollouts after one to warm up")
    parser.add_argument("--num-envs", type=int, default=quickstart().env.num_envs, help="environment slots")
    parser.add_argument("--num-workers", type=int, default=quickstart().env.num_workers, help="worker processes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = quickstart()
    config = replace(config, env=replace(config.env, num_envs=options.num_envs, num_workers=options.num_workers))
    policy = load_policy(options.policy) if options.policy else make_policy(config).eval()
    spec = make_spec(config.env)
    sampler = TaskSampler(config.curriculum, config.env.task_ids, spec.num_starts["train"], config.seed)
    generator = LocalGenerator(policy, config.ppo.temperature)
    environment_module(config.env.name).prepare(config.env, print)
    rates = []
    with VectorEnv(config.env) as envs:
        collector = Collector(envs, config.env.replan_steps)
        for index in range(options.rollouts + 1):
            started = time.perf_counter()
            rollout = collector.collect(generator, sampler.work_list(index, options.trajectories))
            rates.append(int(rollout.executed_steps.sum()) / (time.perf_counter() - started))
    result = {
        "env_steps_per_second": rates[1:],
        "num_envs": options.num_envs,
        "num_workers": options.num_workers,
        "cpu_cores": machine_card()["cpu_cores"],
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{sum(rates[1:]) / len(rates[1:]):.0f} env steps/s ({', '.join(f'{r:.0f}' for r in rates[1:])})")


if __name__ == "__main__":
    main()
