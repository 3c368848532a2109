"""From records to tables and verdicts; pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlarl.evaluation.protocol import rate
from vlarl.evaluation.statistics import (
    interquartile_mean,
    interquartile_mean_interval,
    mean_interval,
    paired_bootstrap_interval,
)
from vlarl.studies.base import FAILS, HOLDS, UNDECIDED, Claim, Study, label
from vlarl.studies.growth import counts_of, describe_growth, first_tenth, last_tenth
from vlarl.studies.records import Record

Records = Mapping[tuple[str, int], Record]
"""(variant, seed) -> record."""
FINAL, START = "rl_greedy", "sft_greedy"
MARGIN = 0.02
"""A gain of less than two points counts as none."""


def analyse(study: Study, seeds: Sequence[int], records: Records) -> dict[str, Any]:
    """JSON-able: per variant its success and learning curve, per claim its verdict, and the runs that are missing."""
    return {
        "study": study.name,
        "question": study.question,
        "seeds": list(seeds),
        "variants": [_variant(v.name, v.about, seeds, records) for v in study.variants],
        "claims": [judge(claim, seeds, records) for claim in study.claims],
        "growth": [
            describe_growth(name, found) for name in study.growing if (found := _finished(name, seeds, records))
        ],
        "missing": [[v.name, s] for v in study.variants for s in seeds if (v.name, s) not in records],
        "crashed": [[v, s, record.error] for (v, s), record in sorted(records.items()) if record.error is not None],
    }


def area_under_curve(record: Record) -> float:
    """Success of the rollouts, averaged over the env steps of training; in [0, 1]."""
    steps = np.diff([0, *(at for at, _ in record.curve)])
    return float(np.average([success for _, success in record.curve], weights=steps))


def judge(claim: Claim, seeds: Sequence[int], records: Records) -> dict[str, Any]:
    """The difference better - worse with its 95 % interval, and what it says of the claim.

    A claim holds where the interval is above zero, does not hold where all of it is below MARGIN. Only seeds count that
    have all of the claim's variants, none of them crashed.
    A variant that crashed has lost to one that did not.
    """
    complete = [s for s in seeds if all((name, s) in records for pair in claim.pairs for name in pair)]
    by_seed = [[(records[better, s], records[worse, s]) for better, worse in claim.pairs] for s in complete]
    result: dict[str, Any] = {"claim": claim.text, "confidence": claim.confidence, "metric": claim.metric}
    result |= {"better": label(claim.better), "worse": label(claim.worse), "seeds": len(complete), "crashed": 0}
    finished = [pair for pairs in by_seed if not any(r.error for pair in pairs for r in pair) for pair in pairs]
    result["crashed"] = sum(_has_lost(pairs) for pairs in by_seed)
    if not finished:
        verdict = HOLDS if result["crashed"] and result["crashed"] == len(complete) else UNDECIDED
        return result | {"points": None, "ci95": None, "verdict": verdict}
    if claim.metric in ("final", "curve") and all(b.fingerprint == w.fingerprint for b, w in finished):
        # With another recipe two variants may come to the same run.
        return result | {"points": 0.0, "ci95": None, "verdict": UNDECIDED}
    if claim.metric in ("final", "lift"):
        against = FINAL if claim.metric == "final" else START
        differences = [float(b.outcomes[FINAL].mean() - w.outcomes[against].mean()) for b, w in finished]
        interval = paired_bootstrap_interval([(w.outcomes[against], b.outcomes[FINAL]) for b, w in finished])
    else:
        differences = [_along_the_curve(claim, b, w) for b, w in finished]
        interval = mean_interval(differences)
    points = 100 * float(np.mean(differences))
    if interval is None:
        return result | {"points": points, "ci95": None, "verdict": UNDECIDED}
    low, high = interval
    verdict = HOLDS if low > 0 else FAILS if high < MARGIN else UNDECIDED
    return result | {"points": points, "ci95": [100 * low, 100 * high], "verdict": verdict}


def _has_lost(pairs: Sequence[tuple[Record, Record]]) -> bool:
    """Whether a run of `worse` crashed, and none of `better`."""
    return any(worse.error for _, worse in pairs) and not any(better.error for better, _ in pairs)


def _along_the_curve(claim: Claim, better: Record, worse: Record) -> float:
    if claim.metric == "growth":
        return last_tenth(counts_of(better)) - first_tenth(counts_of(worse))
    return area_under_curve(better) - area_under_curve(worse)


def _finished(name: str, seeds: Sequence[int], records: Records) -> list[Record]:
    found = [records[name, s] for s in seeds if (name, s) in records]
    return [record for record in found if record.error is None]


def _variant(name: str, about: str, seeds: Sequence[int], records: Records) -> dict[str, Any]:
    found = [records[name, s] for s in seeds if (name, s) in records]
    finished = _finished(name, seeds, records)
    row: dict[str, Any] = {"name": name, "about": about, "runs": len(found), "crashed": len(found) - len(finished)}
    row["elsewhere"] = any("evaluated_in" in record.config for record in finished)
    row["warnings"] = sorted({kind for record in found for kind in record.warnings})
    if not finished:
        return (
            row | dict.fromkeys(("sft", "final", "iqm", "iqm_ci95", "area", "area_ci95")) | {"tasks": {}, "curves": []}
        )
    areas = [area_under_curve(record) for record in finished if record.curve]
    interval = mean_interval(areas) if areas else None
    scores = np.array([_per_task(record) for record in finished])
    return row | {
        "sft": rate(np.concatenate([record.outcomes[START] for record in finished])),
        "final": rate(np.concatenate([record.outcomes[FINAL] for record in finished])),
        "tasks": dict(zip(_tasks(finished[0]), scores.mean(0).tolist(), strict=True)),
        "iqm": interquartile_mean(scores),
        "iqm_ci95": list(interquartile_mean_interval(scores)) if len(finished) > 1 else None,
        "area": float(np.mean(areas)) if areas else None,
        "area_ci95": None if interval is None else list(interval),
        "curves": [[list(point) for point in record.curve] for record in finished if record.curve],
        "card": _card(finished),
    }


def _tasks(record: Record) -> list[int]:
    return sorted({task for task, _ in record.starts})


def _per_task(record: Record) -> list[float]:
    tasks = np.array([task for task, _ in record.starts])
    return [float(record.outcomes[FINAL][tasks == task].mean()) for task in _tasks(record)]


def _card(records: Sequence[Record]) -> dict[str, Any]:
    cards = [record.card for record in records]
    return {
        "env_steps": sum(card["env_steps"] for card in cards),
        "core_hours": sum(card["core_hours"] for card in cards),
        "peak_rss_bytes": max(card["peak_rss_bytes"] for card in cards),
        "packages": dict(records[0].packages),
    }
