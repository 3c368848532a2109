"""LIBERO's speed against upstream's environment, in turns in one run: ratios with their spread.

    python benchmarks/libero_speed.py [--tasks libero_object:0 libero_goal:8] [--repeats 15] [--output speed.json]

Upstream runs in a process of its own, with its own threads, and rests while the project's turn is, and the other way
round. Both start from the same state and take the same random actions, a second or two each, and then it is the other's
turn again: a ratio is the median over these repeats, with its quartiles, because a shared machine's speed can double
from one second to the next. The bare loops make the same MuJoCo calls with the recorded controls and nothing else; they
have to end in the same bits, or the benchmark fails.
"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from libero_contestants import (
    CAMERAS,
    TURN,
    UPSTREAM_STEPS,
    BareLoop,
    BareTraining,
    LikeForLike,
    Remote,
    Upstream,
    compile_bare_steps,
    random_actions,
    timed,
)

TRAINING_TURNS = 5
NUM_ENVS = 8
WORKER_TURNS = 10
BARE_ROUNDS = 16
"""Episodes of bare loops per repeat, over all processes: the env steps of WORKER_TURNS."""
TARGETS: dict[str, float] = {
    "a: training setting, two workers / upstream as shipped": 150,
    "a: training setting, one slot / upstream as shipped": 75,
    "a: training setting / upstream, same cadence": 5,
    "a: training setting / bare MuJoCo calls": 0.8,
    "b: exact, reference / upstream as shipped": 1.05,
    "b: exact, reference / bare MuJoCo calls": 0.9,
    "c: fast frames, 2 x 256 px / upstream as shipped": 20,
    "d: task ready, upstream / from cache": 12,
    "d: reset, upstream / from cache": 400,
    "e: two workers / one": 1.8,
}
MACHINE_LIMIT = "e: this machine's limit, two bare loops / one"
"""Of the same MuJoCo calls in one and in two plain processes, half of the work each. No target: it judges the machine.
Processors that are threads of one core, or shared with other work, stay below 2."""


@dataclass
class Series:
    """Rates, or seconds, of one contestant, one per repeat."""

    values: list[float] = field(default_factory=list)

    def ratio(self, other: "Series") -> dict[str, float]:
        """Median and quartiles of the repeats' ratios."""
        low, median, high = np.quantile(np.divide(self.values, other.values), [0.25, 0.5, 0.75]).tolist()
        return {"ratio": median, "low": low, "high": high}


# ---- measuring


def measure_task(suite: str, task_id: int, repeats: int, bare_step: Callable[..., None]) -> dict[str, Any]:
    """All ratios of one task but those of workers."""
    from vlarl.envs.libero import LiberoEnv

    def make(profile: str, stepping: str, cameras: tuple[str, ...], size: int, turn: int) -> Any:  # noqa: ANN401
        return LiberoEnv(
            suite, task_id, profile=profile, stepping=stepping, cameras=cameras, image_size=size, replan_steps=turn
        )

    training = make("fast", "fast", CAMERAS[:1], 64, TURN)
    upstream = Remote(Upstream, suite, task_id)
    series: dict[str, Series] = {}

    def note(name: str, value: float) -> None:
        series.setdefault(name, Series()).values.append(value)

    for _ in range(2):
        note("ready, upstream (s)", upstream.ask("ready"))
        note("ready, ours (s)", timed(lambda: make("fast", "fast", CAMERAS[:1], 64, TURN)))
    start = {"init_state_id": 0}
    training.reset(options=start)
    state = training.get_state()
    for _ in range(3):
        note("reset, upstream (s)", upstream.ask("reset", state))
        note("reset, ours (s)", min(timed(lambda: training.reset(options=start)) for _ in range(5)))

    frames = make("fast", "fast", CAMERAS, 256, 1)
    like_for_like = Remote(LikeForLike, suite, task_id)
    plans = {
        "training": (training, random_actions(TRAINING_TURNS * TURN).reshape(-1, TURN, 7)),
        "fast frames": (frames, random_actions(2 * UPSTREAM_STEPS)),
    }
    training.reset(options=start)
    bare = BareLoop(training, bare_step, plans["training"][1].reshape(-1, 7))
    for _ in range(repeats):
        note("upstream as shipped", 1 / upstream.ask("as_shipped", state))
        note("upstream, same cadence", 1 / upstream.ask("same_cadence", state))
        for name, (env, actions) in plans.items():
            env.reset(options=start)
            seconds = timed(lambda env=env, actions=actions: [env.step(action) for action in actions])
            note(name, actions.size / 7 / seconds)
        note("like for like", like_for_like.ask("rate"))
        note("like for like, bare", like_for_like.ask("bare_rate"))
        bare.begin()
        note("training, bare", TRAINING_TURNS * TURN / timed(lambda: bare.run(TURN, 64, CAMERAS[:1])))
        bare.check()
    like_for_like.close()
    upstream.close()
    s = series
    return {
        "values": {name: one.values for name, one in series.items()},
        "ratios": {
            "a: training setting, one slot / upstream as shipped": s["training"].ratio(s["upstream as shipped"]),
            "a: training setting / upstream, same cadence": s["training"].ratio(s["upstream, same cadence"]),
            "a: training setting / bare MuJoCo calls": s["training"].ratio(s["training, bare"]),
            "b: exact, reference / upstream as shipped": s["like for like"].ratio(s["upstream as shipped"]),
            "b: exact, reference / bare MuJoCo calls": s["like for like"].ratio(s["like for like, bare"]),
            "c: fast frames, 2 x 256 px / upstream as shipped": s["fast frames"].ratio(s["upstream as shipped"]),
            "d: task ready, upstream / from cache": s["ready, upstream (s)"].ratio(s["ready, ours (s)"]),
            "d: reset, upstream / from cache": s["reset, upstream (s)"].ratio(s["reset, ours (s)"]),
        },
    }


def measure_workers(suite: str, task_id: int, repeats: int) -> dict[str, Series]:
    """Env steps per second of one and two workers, random actions in the training setting; and of bare loops alike."""
    from vlarl.configs.env import EnvConfig
    from vlarl.envs.vector import VectorEnv

    series: dict[str, Series] = {}
    with contextlib.ExitStack() as stack:
        pools, loops = {}, []
        for workers in (1, 2):
            config = EnvConfig(task_suite=suite, task_ids=(task_id,), num_envs=NUM_ENVS, num_workers=workers)
            pools[workers] = stack.enter_context(VectorEnv(config))
            loops.append(Remote(BareTraining, suite, task_id))
            stack.callback(loops[-1].close)
        for repeat in range(1 + repeats):
            rates = {f"training, {n} workers": rate_of_workers(envs, task_id) for n, envs in pools.items()}
            rates |= {f"training, bare, {n} processes": rate_of_loops(loops[:n]) for n in pools}
            # The first repeat warms up.
            for name, rate in rates.items() if repeat else ():
                series.setdefault(name, Series()).values.append(rate)
    return series


def rate_of_workers(envs: Any, task_id: int) -> float:  # noqa: ANN401 - VectorEnv
    """Env steps per second."""
    from vlarl.types import Start

    actions = random_actions(WORKER_TURNS * NUM_ENVS * TURN).reshape(WORKER_TURNS, NUM_ENVS, TURN, 7)
    slots = list(range(NUM_ENVS))
    envs.reset({slot: Start(task_id=task_id, split="train", index=slot) for slot in slots})
    envs.receive(slots)
    started = time.perf_counter()
    for turn in actions:
        envs.step(dict(enumerate(turn)))
        envs.receive(slots)
    return actions.size / 7 / (time.perf_counter() - started)


def rate_of_loops(loops: list[Remote]) -> float:
    """Env steps per second of all together."""
    started = time.perf_counter()
    for loop in loops:
        loop.send("run", BARE_ROUNDS // len(loops))
    steps = sum(loop.receive() for loop in loops)
    return steps / (time.perf_counter() - started)


def measure(suite: str, task_id: int, repeats: int, bare_step: Callable[..., None]) -> dict[str, Any]:
    """Values of every contestant and all ratios of one task."""
    result = measure_task(suite, task_id, repeats, bare_step)
    workers = measure_workers(suite, task_id, repeats)
    shipped = Series(result["values"]["upstream as shipped"])
    values = {name: one.values for name, one in workers.items()}
    ratios = {
        "a: training setting, two workers / upstream as shipped": workers["training, 2 workers"].ratio(shipped),
        "e: two workers / one": workers["training, 2 workers"].ratio(workers["training, 1 workers"]),
        MACHINE_LIMIT: workers["training, bare, 2 processes"].ratio(workers["training, bare, 1 processes"]),
    }
    return {"values": result["values"] | values, "ratios": dict(sorted((result["ratios"] | ratios).items()))}


def print_task(task: str, result: dict[str, Any]) -> None:
    """Prints the table of one task."""
    print(f"\n{task}")
    for name, values in result["values"].items():
        unit = "s" if name.endswith("(s)") else "env steps/s"
        print(f"  {name.removesuffix(' (s)'):<56}{np.median(values):10.4g} {unit}")
    for name, found in result["ratios"].items():
        spread = f"({found['low']:.3g} to {found['high']:.3g})"
        verdict = ""
        if name in TARGETS:
            verdict = f"at least {TARGETS[name]:g}: {'ok' if found['ratio'] >= TARGETS[name] else 'below'}"
        print(f"  {name:<56}{found['ratio']:10.3g} {spread:<20} {verdict}".rstrip())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["libero_object:0", "libero_goal:8"], help="SUITE:TASK_ID")
    parser.add_argument("--repeats", type=int, default=15, help="of the stepping rates")
    parser.add_argument("--output", type=Path, help="write everything as JSON")
    options = parser.parse_args()
    from vlarl.system import machine_card

    results: dict[str, Any] = {}
    bare_step = compile_bare_steps()[0]
    for task in options.tasks:
        suite, _, number = task.partition(":")
        started = time.perf_counter()
        results[task] = measure(suite, int(number), options.repeats, bare_step)
        print_task(task, results[task])
        print(f"  measured in {time.perf_counter() - started:.0f} s, load {os.getloadavg()[0]:.1f}")
    if options.output:
        report = {"machine": machine_card(), "targets": TARGETS, "tasks": results}
        options.output.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
