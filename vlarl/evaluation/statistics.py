"""Intervals and tests for success counts."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, t, trim_mean

Z95 = 1.96
"""Half the width of a normal 95 % interval, in standard errors."""


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (Wilson 1927).

    Raises:
        ValueError: no episodes, or more successes than episodes.
    """
    if not 0 <= successes <= episodes or episodes == 0:
        raise ValueError(f"no proportion: {successes} successes of {episodes} episodes")
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def is_within_standard_error(rate: float, highest: float, episodes: int) -> bool:
    """Is a success rate at most one standard error below the highest one (Breiman et al. 1984, the 1-SE rule)?

    Args:
        rate: in [0, 1].
        highest: in [0, 1].
        episodes: behind each of the two.
    """
    # Agresti and Coull's two successes and two failures more: the error of 50 of 50 is not 0.
    smoothed = (highest * episodes + 2) / (episodes + 4)
    return rate >= highest - np.sqrt(smoothed * (1 - smoothed) / episodes)


def mcnemar_p_value(before: np.ndarray, after: np.ndarray) -> float:
    """Exact two-sided McNemar test on paired outcomes [n] bool: are changes up and down equally likely?"""
    up, down = _discordant(before, after)
    return 1.0 if up + down == 0 else float(binomtest(up, up + down, 0.5).pvalue)


def paired_difference_interval(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """95 % interval of the difference of paired proportions (after - before), both [n] bool.

    Newcombe's square-and-add method for paired data (Statistics in Medicine 17, 1998, method 10), as fractions in
    [-1, 1].
    """
    up, down = _discordant(before, after)
    n = len(before)
    both = int(np.sum(before & after))
    neither = n - up - down - both
    p_after, p_before = (both + up) / n, (both + down) / n
    low_after, high_after = wilson_interval(both + up, n)
    low_before, high_before = wilson_interval(both + down, n)
    margins = (both + up) * (neither + down) * (both + down) * (neither + up)
    cross = both * neither - up * down
    # Newcombe's continuity correction of phi, only where the association is positive.
    corrected = max(cross - n / 2, 0) if cross > 0 else cross
    phi = corrected / np.sqrt(margins) if margins else 0.0
    difference = p_after - p_before

    def width(a: float, b: float) -> float:
        return float(np.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)))

    low = difference - width(p_after - low_after, high_before - p_before)
    high = difference + width(high_after - p_after, p_before - low_before)
    return max(-1.0, low), min(1.0, high)


def paired_bootstrap_interval(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], draws: int = 10_000
) -> tuple[float, float]:
    """95 % percentile interval of the mean difference of paired success rates, after - before, over strata.

    Starts are drawn anew within each stratum (a seed or a task), which all count alike: the interval says how the
    difference of these runs varies with the starts, not with other seeds.

    Args:
        pairs: per stratum the outcomes before and after, each [n] bool.
        draws: bootstrap samples, from a fixed seed.
    """
    rng = np.random.default_rng(0)
    total = np.zeros(draws)
    for before, after in pairs:
        up, down = _discordant(before, after)
        n = len(before)
        # Drawing n starts with replacement draws their kinds from a multinomial distribution.
        counts = rng.multinomial(n, [up / n, down / n, (n - up - down) / n], size=draws)
        total += (counts[:, 0] - counts[:, 1]) / n
    low, high = np.quantile(total / len(pairs), [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of a mean, as over seeds; None of fewer than two values."""
    if len(values) < 2:
        return None
    center, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    width = float(t.ppf(0.975, len(values) - 1)) * error
    return center - width, center + width


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all scores [runs, tasks] (Agarwal et al. 2021, `rliable`)."""
    return float(trim_mean(np.asarray(scores, dtype=float), 0.25, axis=None))


def interquartile_mean_interval(scores: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the interquartile mean: runs are drawn anew within each task (`rliable`)."""
    runs, tasks = scores.shape
    rows = np.random.default_rng(0).integers(runs, size=(draws, runs, tasks))
    sampled = np.take_along_axis(scores[None], rows, axis=1).reshape(draws, -1)
    low, high = np.quantile(trim_mean(sampled, 0.25, axis=1), [0.025, 0.975])
    return float(low), float(high)


def smallest_gain(episodes: int, share_changed: float) -> float:
    """The gain that McNemar's test on paired episodes finds with 80 % power at 5 % (Connor 1987, to first order).

    Args:
        episodes: paired episodes.
        share_changed: share of starts whose outcome differs between the two policies.
    """
    return float((Z95 + 0.8416) * np.sqrt(share_changed / episodes))


def _discordant(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    if len(before) != len(after) or len(before) == 0:
        raise ValueError(f"outcomes are not paired: {len(before)} before, {len(after)} after")
    return int(np.sum(~before & after)), int(np.sum(before & ~after))
