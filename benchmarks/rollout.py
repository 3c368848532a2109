"""Env steps per second of the rollout phase: LIBERO workers, batched autoregressive decoding, as in training.

    python benchmarks/rollout.py [--policy runs/quickstart/sft/policy] [--trajectories 64] [--num-envs 32] [--json]
        [--reward-model runs/reward/model]

Without --policy the quickstart's policy with random weights acts, so that every trajectory runs to its limit. With
--reward-model each work list is collected without and with the process reward, in turns.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vlarl.configs.reward import ProcessRewardConfig
from vlarl.envs.base import environment_module, make_spec
from vlarl.envs.vector import VectorEnv
from vlarl.inference.local import LocalGenerator
from vlarl.policies.checkpoint import load_policy
from vlarl.recipes import quickstart
from vlarl.rewards.base import RewardFn, make_reward_fn
from vlarl.rollout.collector import Collector
from vlarl.rollout.task_sampler import TaskSampler
from vlarl.system import machine_card
from vlarl.training.build import make_policy
from vlarl.types import WorkItem


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="policy folder")
    parser.add_argument("--trajectories", type=int, default=64, help="per timed rollout")
    parser.add_argument("--rollouts", type=int, default=2, help="timed rollouts after one to warm up")
    parser.add_argument("--num-envs", type=int, default=quickstart().env.num_envs, help="environment slots")
    parser.add_argument("--num-workers", type=int, default=quickstart().env.num_workers, help="worker processes")
    parser.add_argument("--reward-model", type=Path, help="folder of a process reward model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = quickstart()
    config = replace(config, env=replace(config.env, num_envs=options.num_envs, num_workers=options.num_workers))
    if options.reward_model:
        reward = ProcessRewardConfig(model=str(options.reward_model))
        config = replace(config, reward="process", process_reward=reward)
    policy = load_policy(options.policy) if options.policy else make_policy(config).eval()
    spec = make_spec(config.env)
    sampler = TaskSampler(config.curriculum, config.env.task_ids, spec.num_starts["train"], config.seed)
    generator = LocalGenerator(policy, config.ppo.temperature)
    environment_module(config.env.name).prepare(config.env, print)
    reward_fns = [None, make_reward_fn(config, spec)] if options.reward_model else [None]
    rates: list[list[float]] = [[] for _ in reward_fns]
    with VectorEnv(config.env) as envs:
        collector = Collector(envs, config.env.replan_steps)
        for index in range(options.rollouts + 1):
            items = sampler.work_list(index, options.trajectories)
            for reward_fn, found in zip(reward_fns, rates, strict=True):
                found.append(collect(collector, generator, items, reward_fn))
    result = {
        "env_steps_per_second": rates[0][1:],
        "num_envs": options.num_envs,
        "num_workers": options.num_workers,
        "cpu_cores": machine_card()["cpu_cores"],
    }
    if options.reward_model:
        result["env_steps_per_second_with_process_reward"] = rates[1][1:]
        result["process_reward_share"] = sum(rates[0][1:]) / sum(rates[1][1:]) - 1
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, found in zip(("", " with process reward"), rates, strict=False):
            mean = sum(found[1:]) / len(found[1:])
            print(f"{mean:.0f} env steps/s ({', '.join(f'{r:.0f}' for r in found[1:])}){name}")


def collect(
    collector: Collector, generator: LocalGenerator, items: Sequence[WorkItem], reward_fn: RewardFn | None
) -> float:
    """Env steps per second of one rollout, its rewards included."""
    started = time.perf_counter()
    rollout = collector.collect(generator, items, reward_fn=reward_fn)
    if reward_fn:
        reward_fn.score(rollout)
    return int(rollout.executed_steps.sum()) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
