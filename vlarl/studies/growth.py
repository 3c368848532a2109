"""What the learning curves of one variant say about how success grows with training; pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlarl.evaluation.protocol import rate
from vlarl.evaluation.statistics import Z95
from vlarl.studies.base import UNDECIDED
from vlarl.studies.laws import LARGEST, LAWS, SATURATING, Counts, Fit, Law, exponent_interval, fit
from vlarl.studies.records import Record

DOUBLINGS = 5
"""Success is shown after the whole training and after its half, quarter, ..."""
TRAINED_ON, HELD_OUT_FROM = 0.5, 0.9
"""Laws are fitted to the first half of a training, and predict its last tenth."""
CLEAR_LEAD = 2.0
"""Nats of held-out log-likelihood by which the best law has to lead another to exclude it."""


def counts_of(record: Record) -> Counts:
    """Outcomes of a run's rollouts against the env steps that their policy had learned from.

    Those of the critic warm-up do not count: the policy stands still.
    """
    ppo = record.config["ppo"]
    episodes, warmup = int(ppo["rollout_batch_size"]), int(ppo["critic_warmup_iterations"])
    after, success = np.array(record.curve).T
    before = np.concatenate([[0.0], after[:-1]])
    return Counts(
        steps=np.maximum(0.0, before - before[min(warmup, len(before) - 1)]),
        successes=np.rint(success * episodes).astype(int),
        episodes=np.full(len(after), episodes),
    )


def first_tenth(run: Counts) -> float:
    """Success in the first tenth of a training's env steps."""
    return run.select(run.steps <= run.steps[-1] - HELD_OUT_FROM * run.steps[-1]).rate


def last_tenth(run: Counts) -> float:
    """Success in the last tenth of a training's env steps."""
    return run.select(run.steps > HELD_OUT_FROM * run.steps[-1]).rate


def pool(runs: Sequence[Counts]) -> Counts:
    """Adds the outcomes of several runs, iteration by iteration, up to the shortest; steps are averaged."""
    length = min(len(run.steps) for run in runs)
    return Counts(
        steps=np.mean([run.steps[:length] for run in runs], axis=0),
        successes=np.sum([run.successes[:length] for run in runs], axis=0),
        episodes=np.sum([run.episodes[:length] for run in runs], axis=0),
    )


def describe_growth(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """JSON-able: success at each doubling, the laws, which of them predict, and whether returns diminish.

    Args:
        name: of the variant.
        records: its finished runs, one per seed.
    """
    runs = [counts_of(record) for record in records]
    pooled = pool(runs)
    points = [_point(pooled, pooled.steps[-1] / 2**i) for i in reversed(range(DOUBLINGS + 1))]
    whole = {law.name: fit(law, pooled) for law in LAWS}
    laws = [_law(law, runs, whole[law.name], pooled.steps[-1]) for law in LAWS]
    saturating = whole[SATURATING.name]
    log_exponent = min(float(saturating.parameters[3]), LARGEST)
    return {
        "variant": name,
        "seeds": len(runs),
        "points": points,
        "laws": laws,
        "predicts": _not_excluded(laws),
        "exponent": float(np.exp(log_exponent)),
        "exponent_ci95": list(exponent_interval(saturating, pooled)),
        "diminishes": _diminishes(points),
    }


def _law(law: Law, runs: Sequence[Counts], whole: Fit, last: float) -> dict[str, Any]:
    """How well a law explains and predicts the runs, each of which has its own start; `whole` draws the line."""
    grid, held_out = np.linspace(0.0, last, 41), 0.0
    for run in runs:
        half = fit(law, run.select(run.steps <= TRAINED_ON * run.steps[-1]))
        held_out += half.score(run.select(run.steps > HELD_OUT_FROM * run.steps[-1]))
    return {
        "name": law.name,
        "formula": law.formula,
        "parameters": whole.parameters.tolist(),
        "unit": whole.unit,
        "log_likelihood": sum(fit(law, run).log_likelihood for run in runs),
        "held_out": held_out,
        "line": np.column_stack([grid, whole.predict(grid)]).tolist(),
    }


def _not_excluded(laws: Sequence[dict[str, Any]]) -> list[str]:
    """The laws whose prediction no other beats clearly."""
    best = max(row["held_out"] for row in laws)
    return [row["name"] for row in laws if row["held_out"] > best - CLEAR_LEAD]


def _point(pooled: Counts, steps: float) -> dict[str, Any]:
    """Success of the rollouts in the half octave that ends there."""
    chosen = pooled.select((pooled.steps > steps / np.sqrt(2)) & (pooled.steps <= steps))
    successes, episodes = int(chosen.successes.sum()), int(chosen.episodes.sum())
    known = rate(np.arange(episodes) < successes) if episodes else {"successes": 0, "episodes": 0}
    return {"env_steps": float(steps)} | known


def _diminishes(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Does the last doubling gain less than the one before? Points, with the normal 95 % interval."""
    *_, first, second, third = points
    if not all(point["episodes"] for point in (first, second, third)):
        return {"points": None, "ci95": None, "verdict": UNDECIDED}
    rates = np.array([point["success_rate"] for point in (first, second, third)])
    weights = np.array([1.0, -2.0, 1.0])
    difference = 100 * float(weights @ rates)
    variances = rates * (1 - rates) / [point["episodes"] for point in (first, second, third)]
    margin = 100 * Z95 * float(np.sqrt(weights**2 @ variances))
    low, high = difference - margin, difference + margin
    verdict = "yes" if high < 0 else "no" if low > 0 else UNDECIDED
    return {"points": difference, "ci95": [low, high], "verdict": verdict}
