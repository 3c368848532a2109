"""Intervals and tests for success counts."""

import numpy as np
from scipy.stats import binomtest


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion (Wilson 1927).

    Raises:
        ValueError: no episodes, or more successes than episodes.
    """
    if not 0 <= successes <= episodes or episodes == 0:
        raise ValueError(f"no proportion: {successes} successes of {episodes} episodes")
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


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


def _discordant(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    if len(before) != len(after) or len(before) == 0:
        raise ValueError(f"outcomes are not paired: {len(before)} before, {len(after)} after")
    return int(np.sum(~before & after)), int(np.sum(before & ~after))
