"""Success of the scripted experts as a Markdown table.

    python scripts/expert_table.py SUITE [--task-ids 0 3] [--starts 20]

Training starts 0 to N-1 under LIBERO's step limits, no forced mistakes, two processes; nothing is rendered. Exit code 1
where a task has no expert or one below 60 %.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.envs.libero.env import make_environments, make_spec, prepare
from vlarl.envs.libero.tasks import load_task
from vlarl.errors import UserError
from vlarl.evaluation.statistics import wilson_interval
from vlarl.experts.tasks import make_expert, require_expert
from vlarl.types import Start

LOWEST_RATE = 0.6
"""What every expert should reach."""


def successes(suite: str, task_id: int, num_starts: int) -> tuple[int, float]:
    """How often the expert solves the task, and its mean env steps when it does."""
    config = EnvConfig(name="libero", task_suite=suite, task_ids=(task_id,))
    (slot,) = make_environments(config, 1)
    limit = make_spec(config).max_episode_steps[task_id]
    lengths = []
    for index in range(num_starts):
        slot.begin(Start(task_id=task_id, split="train", index=index))
        expert = make_expert(slot.task, np.random.default_rng([0, task_id, index]), 0.0)
        for step in range(1, limit + 1):
            if expert.finished:
                break
            if slot.step_once(expert.act(slot).action):
                lengths.append(step)
                break
    return len(lengths), float(np.mean(lengths)) if lengths else float("nan")


def main() -> int:
    """Prints one row per task and the suite's mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="for example libero_goal")
    parser.add_argument("--task-ids", type=int, nargs="+", default=range(10), help="default: the suite's ten tasks")
    parser.add_argument("--starts", type=int, default=20, help="training starts per task")
    options = parser.parse_args()
    rows, known = [], []
    for task_id in options.task_ids:
        try:
            require_expert(load_task(options.suite, task_id))
            known.append(task_id)
        except UserError:
            rows.append((task_id, 0, float("nan")))
    prepare(EnvConfig(name="libero", task_suite=options.suite, task_ids=tuple(known)), lambda _: None)
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        jobs = {t: pool.submit(successes, options.suite, t, options.starts) for t in known}
        rows += [(task_id, *job.result()) for task_id, job in jobs.items()]
    print(f"| {options.suite} | task | solved | 95 % interval | env steps |\n|---|---|---|---|---|")
    for task_id, count, steps in sorted(rows):
        low, high = wilson_interval(count, options.starts)
        name = load_task(options.suite, task_id).name.replace("_", " ")
        cells = (
            f"{count}/{options.starts} | {low:.0%} to {high:.0%} | {steps:.0f}" if task_id in known else "no expert | |"
        )
        print(f"| {task_id} | {name} | {cells} |")
    print(f"| mean | | {sum(row[1] for row in rows) / (len(rows) * options.starts):.1%} | | |")
    return int(any(count < LOWEST_RATE * options.starts for _, count, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
