"""Environment steps per second of one LIBERO slot against upstream's environment, on one core, in one run.

    python benchmarks/libero_stepping.py [--task-suite libero_goal] [--task-id 8] [--steps 200] [--json]

Three rates each: physics alone, with a frame per step, with a frame per turn of 8 steps (as the policy needs it).
Upstream renders its two cameras at every step, because it has no other way.
"""

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vlarl.configs.env import EnvConfig
from vlarl.envs.libero.build import make_upstream
from vlarl.envs.libero.env import make_environments, prepare
from vlarl.envs.libero.tasks import load_task
from vlarl.types import Start

TURN = 8


def rate(step: Callable[[], Any], steps: int) -> float:
    """Steps per second after one step to warm up."""
    step()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return steps / (time.perf_counter() - started)


def make_upstream_with_cameras(suite: str, task_id: int) -> Any:  # noqa: ANN401 - libero's OffScreenRenderEnv
    """Upstream's usual environment: agentview and wrist camera, 256 pixels."""
    with contextlib.redirect_stdout(io.StringIO()):
        from libero.libero.envs.env_wrapper import OffScreenRenderEnv

        upstream = OffScreenRenderEnv(
            bddl_file_name=str(load_task(suite, task_id).bddl_file), camera_heights=256, camera_widths=256
        )
    upstream.reset()
    return upstream


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task-suite", default="libero_goal", help="suite")
    parser.add_argument("--task-id", type=int, default=8, help="task of the suite")
    parser.add_argument("--steps", type=int, default=200, help="timed env steps of the fast path")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    suite, task_id = options.task_suite, options.task_id
    config = EnvConfig(name="libero", task_suite=suite, task_ids=(task_id,))
    prepare(config, print)
    slot = make_environments(config, 1)[0]
    start = Start(task_id=task_id, split="train", index=0)
    rest = np.zeros(7)
    rest[6] = -1.0
    turn = np.tile(rest, (TURN, 1))

    def step_and_render() -> None:
        slot.step_once(rest)
        slot.observe()

    slot.reset(start)
    result = {
        "fast, physics": rate(lambda: slot.step_once(rest), options.steps),
        "fast, frame per step": rate(step_and_render, options.steps),
    }
    slot.reset(start)
    turns = min(options.steps, 200) // TURN
    result["fast, frame per turn"] = TURN * rate(lambda: slot.step(turn), turns)
    physics = make_upstream(load_task(suite, task_id), seed=0)
    result["upstream, physics"] = rate(lambda: physics.step(rest), max(20, options.steps // 4))
    cameras = make_upstream_with_cameras(suite, task_id)
    result["upstream, two cameras"] = rate(lambda: cameras.step(rest), max(10, options.steps // 20))
    ratios = {
        "physics": result["fast, physics"] / result["upstream, physics"],
        "as used": result["fast, frame per turn"] / result["upstream, two cameras"],
    }
    if options.json:
        print(json.dumps({"env_steps_per_second": result, "ratio": ratios}, indent=2))
    else:
        for name, value in result.items():
            print(f"{name:<24}{value:8.1f} env steps/s")
        for name, value in ratios.items():
            print(f"ratio, {name:<17}{value:8.1f}")


if __name__ == "__main__":
    main()
