"""What Ray costs and what asynchrony gains, on real LIBERO, beside what `vlarl plan` predicts.

    python benchmarks/cluster.py workers  [--repeats 9] [--output cluster_workers.json]
    python benchmarks/cluster.py training --policy runs/quickstart/sft/policy [--iterations 6] [--output FILE]

workers: env steps/s of random actions in 1 and 2 environment workers, as plain processes and as Ray actors, in turns.
training: seconds per iteration of short trainings on a local Ray cluster, synchronous and asynchronous, with 1 and 2
environment workers; and with rollout pinned to one core, learning to another. Linux only (cores are pinned).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch

from vlarl.configs.env import EnvConfig
from vlarl.envs.base import environment_module, make_spec
from vlarl.envs.vector import VectorEnv
from vlarl.inference.local import LocalGenerator
from vlarl.policies.checkpoint import load_policy
from vlarl.recipes import quickstart
from vlarl.rollout.collector import Collector
from vlarl.rollout.task_sampler import TaskSampler
from vlarl.system import machine_card
from vlarl.training.pipeline import Layout, Pieces, predict
from vlarl.types import Observation, Start

TURN = 8
"""Env steps between two frames."""
SLOTS = 16
"""Of one worker."""
TRAJECTORIES = 32
"""Of one training iteration."""
RUNS = {
    "sync, 1 worker": (1, 0, False),
    "async, 1 worker": (1, 1, False),
    "sync, 2 workers": (2, 0, False),
    "async, 2 workers": (2, 1, False),
    "sync, pinned": (1, 0, True),
    "async, pinned": (1, 1, True),
}
"""Name -> environment workers, staleness, whether the cores are pinned."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("workers", "training"))
    parser.add_argument("--repeats", type=int, default=9, help="of each kind of worker")
    parser.add_argument("--policy", type=Path, help="folder of the SFT policy to start from")
    parser.add_argument("--iterations", type=int, default=6, help="of each training, the first not counted")
    parser.add_argument("--epochs", type=int, default=2, help="of an update, to make it as long as a rollout")
    parser.add_argument("--output", type=Path, help="also write JSON there")
    options = parser.parse_args()
    if options.part == "training" and not options.policy:
        parser.error("training needs --policy")
    torch.set_num_threads(1)
    result = measure_workers(options.repeats) if options.part == "workers" else measure_training(options)
    print(json.dumps(result, indent=2))
    if options.output:
        options.output.write_text(json.dumps(result | {"machine": machine_card()}, indent=2) + "\n")


class RandomActions:
    """Keeps every slot of a vector environment busy: while one half of the slots is answered, the other simulates."""

    def __init__(self, envs: VectorEnv, task_ids: tuple[int, ...]) -> None:
        self._envs, self._task_ids = envs, task_ids
        self._rng = np.random.default_rng(0)
        workers = envs.num_workers
        self._halves = [[s for s in range(envs.num_envs) if s // workers % 2 == half] for half in (0, 1)]
        self._episodes = 0
        envs.reset({slot: self._start() for slot in range(envs.num_envs)})
        for half in self._halves:
            envs.receive(half)

    def run(self, turns: int) -> float:
        """Env steps per second of so many turns of every slot."""
        began, executed, fresh = time.perf_counter(), 0, set()
        for half in self._halves:
            self._act(half)
        for turn in range(turns):
            for half in self._halves:
                replies = dict(zip(half, self._envs.receive(half), strict=True))
                steps = {slot: reply for slot, reply in replies.items() if slot not in fresh}
                executed += sum(reply.executed_steps for reply in steps.values())
                ended = {slot for slot, reply in steps.items() if reply.terminated or reply.truncated}
                fresh = (fresh - set(half)) | ended
                if turn < turns - 1:
                    self._envs.reset({slot: self._start() for slot in ended})
                    self._act([slot for slot in half if slot not in ended])
        return executed / (time.perf_counter() - began)

    def _act(self, slots: list[int]) -> None:
        self._envs.step({slot: self._rng.uniform(-1, 1, (TURN, 7)) for slot in slots})

    def _start(self) -> Start:
        self._episodes += 1
        task_id = self._task_ids[self._episodes % len(self._task_ids)]
        return Start(task_id=task_id, split="train", index=self._episodes % 200)


def measure_workers(repeats: int) -> dict:
    """Medians with quartiles, everybody in turns."""
    with ExitStack() as stack:
        kinds = {}
        for name in ("processes", "Ray actors"):
            for workers in (1, 2):
                config = replace(quickstart().env, num_envs=SLOTS * workers, num_workers=workers)
                environment_module(config.name).prepare(config, print)
                make = VectorEnv if name == "processes" else _open_actors
                kinds[f"{name}, {workers}"] = RandomActions(stack.enter_context(make(config)), config.task_ids)
        rates: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(repeats + 1):
            for name, driver in kinds.items():
                rates[name].append(driver.run(4))
                time.sleep(0.2)
    # The first of each warms up.
    rates = {name: found[1:] for name, found in rates.items()}
    ratios = {
        "Ray: two workers / one (bar: 1.7)": ("Ray actors, 2", "Ray actors, 1"),
        "processes: two workers / one": ("processes, 2", "processes, 1"),
        "one worker: Ray / processes (bar: 0.9)": ("Ray actors, 1", "processes, 1"),
        "two workers: Ray / processes (bar: 0.9)": ("Ray actors, 2", "processes, 2"),
    }
    return {
        "env_steps_per_second": {name: round(median(found), 1) for name, found in rates.items()},
        "ratios": {
            name: summarise([a / b for a, b in zip(rates[one], rates[other], strict=True)])
            for name, (one, other) in ratios.items()
        },
    }


def summarise(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(middle, 3), "quartile_1": round(low, 3), "quartile_3": round(high, 3)}


@contextmanager
def _open_actors(config: EnvConfig) -> Iterator[VectorEnv]:
    """A vector environment of Ray actors on a cluster of this machine."""
    # Only here: an extra.
    import ray
    from ray.util.placement_group import placement_group

    from vlarl.cluster.calls import accept_read_only_arrays
    from vlarl.cluster.env_workers import ActorWorkers
    from vlarl.cluster.session import DEFAULTS, LOOPBACK

    if not ray.is_initialized():
        os.environ |= DEFAULTS
        accept_read_only_arrays()
        ray.init(address="local", num_cpus=8, log_to_driver=False, _node_ip_address=LOOPBACK, include_dashboard=False)
    group = placement_group([{"CPU": 1}] * config.num_workers)
    with VectorEnv(config, ActorWorkers(config, group, range(config.num_workers))) as envs:
        yield envs


def measure_training(options: argparse.Namespace) -> dict:
    """Seconds per iteration, measured and predicted."""
    pieces: dict[str, Pieces] = {}
    runs = {}
    for name, (workers, staleness, is_pinned) in RUNS.items():
        rows = train(options, workers, staleness, is_pinned)
        counted = rows[1:]
        # From the end of one iteration to the end of the next, whatever overlaps.
        seconds = median(row["time/total"] - row["time/validation"] for row in counted)
        turns = median(row["rollout/turns"] for row in counted)
        runs[name] = {
            "seconds": round(seconds, 2),
            "rollout": round(median(row["time/rollout"] for row in counted), 2),
            "learn": round(median(row["time/learn"] for row in counted), 2),
            "turns": turns,
            "success": [round(row["charts/success_rate"], 3) for row in rows],
        }
        if not pieces:
            pieces["measured"] = measure_pieces(options.policy, counted)
        if not is_pinned:
            layout = Layout(env_workers=workers, num_envs=SLOTS * 2, max_staleness=staleness)
            found = predict(pieces["measured"], layout, trajectories=TRAJECTORIES, turns=round(turns / TRAJECTORIES))
            runs[name] |= {
                "predicted": round(found.seconds, 2),
                "predicted / measured": round(found.seconds / seconds, 2),
            }
        print(f"{name}: {runs[name]}", file=sys.stderr)
    return {
        "async / sync, pinned (bar: 1.4)": round(runs["sync, pinned"]["seconds"] / runs["async, pinned"]["seconds"], 2),
        "runs": runs,
        "pieces": vars(pieces["measured"]),
    }


def train(options: argparse.Namespace, workers: int, staleness: int, is_pinned: bool) -> list[dict]:
    """The rows of a short training from the SFT policy on a local cluster."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "run"
        settings = {
            "--recipe": "quickstart", "--output": folder, "--seed": 0, "--learner-threads": 1,
            "--env.num-workers": workers, "--env.num-envs": SLOTS * 2,
            "--ppo.rollout-batch-size": TRAJECTORIES, "--ppo.update-epochs": options.epochs,
            "--ppo.critic-warmup-iterations": 0, "--ppo.num-iterations": options.iterations,
            "--ppo.max-staleness": staleness, "--evaluation.validation-interval": 0,
        }  # fmt: skip
        flags = [str(part) for pair in settings.items() for part in pair]
        # The folder becomes that of this run before the policy is put into it.
        subprocess.run([sys.executable, "-m", "vlarl", "demos", *flags], check=True)
        shutil.copytree(options.policy, folder / "sft" / "policy")
        process = subprocess.Popen([sys.executable, "-m", "vlarl", "train", *flags, "--cluster", "local"])
        if is_pinned:
            threading.Thread(target=pin_roles, args=(process.pid,), daemon=True).start()
        if process.wait():
            raise SystemExit(f"vlarl train ended with {process.returncode}")
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def pin_roles(driver: int) -> None:
    """Keeps what simulates and decodes on core 0 and what learns on core 1, as long as the driver lives."""
    while psutil.pid_exists(driver):
        for process in psutil.process_iter(["cmdline"]):
            title = " ".join(process.info["cmdline"] or ())
            core = 1 if "ray::Trainer" in title else 0 if title.startswith("ray::") else None
            if core is not None:
                try:
                    for thread in process.threads():
                        os.sched_setaffinity(thread.id, {core})
                except (psutil.NoSuchProcess, ProcessLookupError):
                    continue
        time.sleep(0.5)


def measure_pieces(folder: Path, rows: list[dict]) -> Pieces:
    """The planner's times: of one environment and of decoding here, of learning from a synchronous run's rows."""
    config = quickstart()
    generator = LocalGenerator(load_policy(folder), config.ppo.temperature)
    one, many = _decoding_seconds(generator, 1), _decoding_seconds(generator, SLOTS)
    per_observation = max(0.0, (many - one) / (SLOTS - 1))
    env = replace(config.env, num_envs=1, num_workers=1)
    sampler = TaskSampler(config.curriculum, env.task_ids, make_spec(env).num_starts["train"], config.seed)
    with VectorEnv(env) as envs:
        collector = Collector(envs, env.replan_steps)
        collector.collect(generator, sampler.work_list(0, 1))
        began = time.perf_counter()
        rollout = collector.collect(generator, sampler.work_list(1, 8))
        turn = (time.perf_counter() - began) / len(rollout.executed_steps)
    return Pieces(
        env_turn=turn - one,
        decode=one - per_observation,
        decode_observation=per_observation,
        learn_turn=median(row["time/learn"] / row["rollout/turns"] for row in rows),
        publish=median(row["time/publish"] + row["time/rest"] for row in rows),
    )


def _decoding_seconds(generator: LocalGenerator, batch: int) -> float:
    config = quickstart().policy
    size = config.image_size
    observation = Observation(
        images=np.zeros((batch, size, size, 3), dtype=np.uint8),
        proprio=np.zeros((batch, config.proprio_dim), dtype=np.float32),
        instructions=("put the bowl on the stove",) * batch,
    )
    noise = np.random.default_rng(0).random((batch, generator.num_action_tokens))
    found = []
    for _ in range(20):
        began = time.perf_counter()
        generator.generate(observation, noise)
        found.append(time.perf_counter() - began)
    return median(found)


if __name__ == "__main__":
    main()
