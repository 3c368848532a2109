"""How good a reward model is on episodes that it was not trained on. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from vlarl.rewards.process.labels import IGNORED, POSITIVE, LabelledEpisode

NUM_BINS = 10
RECALL_THRESHOLD = 0.5
"""A keyframe is found where the probability passes this."""


def compute_roc_auc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties half (Mann-Whitney); NaN without both.

    Args:
        scores: [n].
        targets: [n] bool.
    """
    positives = int(targets.sum())
    negatives = len(targets) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[targets].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def compute_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean precision over the positives, taken from the highest score down; equal scores count together.

    Args:
        scores: [n].
        targets: [n] bool.
    """
    if not targets.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(targets[order])
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    found, taken = hits[last_of_ties], np.flatnonzero(last_of_ties) + 1
    return float(np.sum(np.diff(found, prepend=0) * found / taken) / targets.sum())


def compute_reliability(scores: np.ndarray, targets: np.ndarray) -> list[dict[str, float]]:
    """Mean probability and share of positives in each tenth of [0, 1] that holds a score, with its count."""
    bins = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        {
            "mean_probability": float(scores[bins == b].mean()),
            "share_positive": float(targets[bins == b].mean()),
            "frames": int(np.sum(bins == b)),
        }
        for b in np.unique(bins)
    ]


def compute_calibration_error(scores: np.ndarray, targets: np.ndarray) -> float:
    """Expected calibration error: mean distance of the two figures of `compute_reliability`, weighted by frames."""
    rows = compute_reliability(scores, targets)
    return sum(r["frames"] * abs(r["mean_probability"] - r["share_positive"]) for r in rows) / max(1, len(scores))


def compute_keyframe_recall(scores: np.ndarray, keyframes: Sequence[int], distance: int) -> tuple[int, int]:
    """(found, all): keyframes with a score above RECALL_THRESHOLD within `distance` steps, of scores [T]."""
    found = sum(bool(np.any(scores[max(0, k - distance) : k + distance + 1] > RECALL_THRESHOLD)) for k in keyframes)
    return found, len(keyframes)


def compute_separation(successes: Sequence[np.ndarray], failures: Sequence[np.ndarray]) -> float:
    """Share of pairs in which the success has the larger sum at equal length, ties half; NaN without pairs.

    Args:
        successes: scores [turns] of each.
        failures: likewise; the longer of a pair is cut to the shorter.
    """
    wins = []
    for a in successes:
        for b in failures:
            n = min(len(a), len(b))
            difference = a[:n].sum() - b[:n].sum()
            wins.append(0.5 + 0.5 * np.sign(difference))
    return float(np.mean(wins)) if wins else float("nan")


def compute_progress_correlation(
    episodes: Sequence[LabelledEpisode], scores: Sequence[np.ndarray], turn_steps: int
) -> float:
    """Spearman's rank correlation, over all turns of all successes, of the reward so far with the progress.

    Progress is the share of the episode's keyframes that are passed; within one episode both only rise.
    """
    collected: list[float] = []
    progress: list[float] = []
    for labelled, values in zip(episodes, scores, strict=True):
        keyframes = np.array(labelled.milestones.keyframes)
        if len(keyframes):
            turns = np.arange(0, len(values), turn_steps)
            collected += list(np.cumsum(values[turns]))
            progress += list(np.mean(keyframes[None] <= turns[:, None], axis=1))
    if len(set(progress)) < 2 or len(set(collected)) < 2:
        return float("nan")
    return float(spearmanr(collected, progress).statistic)


def compute_other_task_drop(pairs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    """What a prompt that names another task does to positive frames.

    Args:
        pairs: per episode labels, probabilities under its own prompt and under the other's, [T] each.

    Returns:
        own_prompt_probability and other_prompt_probability, means over positive frames, and other_prompt_lower, the
        share of them whose probability is lower under the other prompt; None without pairs.
    """
    if not pairs:
        return dict.fromkeys(("own_prompt_probability", "other_prompt_probability", "other_prompt_lower"))
    own, other = (np.concatenate([pair[i][pair[0] == POSITIVE] for pair in pairs]) for i in (1, 2))
    return {
        "own_prompt_probability": float(own.mean()),
        "other_prompt_probability": float(other.mean()),
        "other_prompt_lower": float(np.mean(other < own)),
    }


def evaluate_scores(
    episodes: Sequence[LabelledEpisode], scores: Sequence[np.ndarray], tolerance_steps: int, turn_steps: int
) -> dict[str, Any]:
    """All figures of a set of episodes, JSON-able.

    Args:
        episodes: labelled.
        scores: probabilities [T] of each.
        tolerance_steps: of the labels' windows; a keyframe counts as found within it.
        turn_steps: env steps between the frames that RL would see.
    """
    labels, values = np.concatenate([e.labels for e in episodes]), np.concatenate(scores)
    banded = labels != IGNORED
    targets = labels == POSITIVE
    recalls = [
        compute_keyframe_recall(s, e.milestones.keyframes, tolerance_steps)
        for e, s in zip(episodes, scores, strict=True)
    ]
    by_task = {
        text: compute_separation(
            *(
                [s[::turn_steps] for e, s in zip(episodes, scores, strict=True) if _is(e, text, success)]
                for success in (True, False)
            )
        )
        for text in sorted({e.episode.instruction for e in episodes})
    }
    separations = [value for value in by_task.values() if np.isfinite(value)]
    figures = {
        "episodes": len(episodes),
        "successes": sum(e.episode.success for e in episodes),
        "frames": len(labels),
        "share_positive": float(targets.mean()),
        "roc_auc": compute_roc_auc(values[banded], targets[banded]),
        "roc_auc_unbanded": compute_roc_auc(values, targets),
        "average_precision": compute_average_precision(values[banded], targets[banded]),
        "average_precision_unbanded": compute_average_precision(values, targets),
        "calibration_error": compute_calibration_error(values[banded], targets[banded]),
        "keyframe_recall": sum(found for found, _ in recalls) / max(1, sum(count for _, count in recalls)),
        "progress_correlation": compute_progress_correlation(episodes, scores, turn_steps),
        "separation": float(np.mean(separations)) if separations else float("nan"),
        "reliability": compute_reliability(values[banded], targets[banded]),
    }
    # JSON has no NaN: null is a figure that these episodes cannot give.
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in figures.items()}


def _is(labelled: LabelledEpisode, instruction: str, success: bool) -> bool:
    return labelled.episode.instruction == instruction and labelled.episode.success == success
