"""How success grows with training: a flat, a logarithmic and a saturating law, fitted by maximum likelihood; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit, xlog1py, xlogy

from vlarl.evaluation.statistics import Z95

SMALLEST = 1e-6
"""Of a predicted probability, and of its complement: no single outcome is impossible."""
LARGEST = 15.0
"""Logarithm of the largest scale and exponent; beyond, the law is an exponential or a straight line."""
SMALLEST_EXPONENT = -6.0
"""Logarithm of the smallest exponent that is tried: with it a thousandfold training closes 2 % of the gap."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Outcomes of episodes after so much training; the points of one run, in order."""

    steps: np.ndarray
    """[n] float, training so far, in any unit; at least 0."""
    successes: np.ndarray
    """[n] int."""
    episodes: np.ndarray
    """[n] int."""

    def select(self, chosen: np.ndarray) -> "Counts":
        """The points where `chosen` [n] bool."""
        return Counts(steps=self.steps[chosen], successes=self.successes[chosen], episodes=self.episodes[chosen])

    @property
    def rate(self) -> float:
        """Success of all episodes together."""
        return float(self.successes.sum() / self.episodes.sum())


@dataclass(frozen=True, kw_only=True)
class Law:
    """A formula with free parameters, all of them unbounded."""

    name: str
    formula: str
    """Over x, training in units of `Fit.unit`."""
    probability: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """(x [n], parameters [k]) -> success [n]."""
    starts: Callable[[float], Sequence[tuple[float, ...]]]
    """Parameters from which fits begin, by the logit of the success of all episodes."""


def _logarithmic(x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    at_start, per_e_fold = parameters
    return at_start + per_e_fold * np.log1p(x)


def _saturating(x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    limit = expit(parameters[0])
    log_scale, log_exponent = np.clip(parameters[2:], -LARGEST, LARGEST)
    at_start = limit * expit(parameters[1])
    return limit - (limit - at_start) * np.exp(-np.exp(log_exponent) * np.log1p(x * np.exp(-log_scale)))


LAWS = (
    Law(
        name="flat",
        formula="s = a",
        probability=lambda x, parameters: np.full(len(x), expit(parameters[0])),
        starts=lambda level: [(level,)],
    ),
    Law(
        name="logarithmic",
        formula="s = a + b ln(1 + x)",
        probability=_logarithmic,
        starts=lambda level: [(expit(level), 0.0), (0.8 * expit(level), 0.1)],
    ),
    Law(
        name="saturating",
        formula="s = l - (l - a) (1 + x / c)^-k",
        probability=_saturating,
        starts=lambda level: [
            (level + 1.0, 1.0, log_scale, log_exponent)
            for log_scale, log_exponent in ((0.0, -1.0), (2.0, 0.5), (4.0, 2.0))
        ],
    ),
)
FLAT, LOGARITHMIC, SATURATING = LAWS


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A law with its best parameters."""

    law: Law
    parameters: np.ndarray
    unit: float
    """Steps that are x = 1: the first point with any."""
    log_likelihood: float = float("-inf")
    """Of what it was fitted to, nats, without the binomial coefficients, which all laws share."""

    def predict(self, steps: np.ndarray) -> np.ndarray:
        """Success after `steps` [n] of training."""
        return np.clip(self.law.probability(steps / self.unit, self.parameters), SMALLEST, 1 - SMALLEST)

    def score(self, counts: Counts) -> float:
        """Log-likelihood of outcomes, nats."""
        return log_likelihood(counts, self.predict(counts.steps))


def log_likelihood(counts: Counts, probability: np.ndarray) -> float:
    """Of binomial counts without their coefficients, nats; probability [n]."""
    failures = counts.episodes - counts.successes
    return float(np.sum(xlogy(counts.successes, probability) + xlog1py(failures, -probability)))


def fit(
    law: Law,
    counts: Counts,
    *,
    fixed: Mapping[int, float] = MappingProxyType({}),
    starts: Sequence[Sequence[float]] | None = None,
) -> Fit:
    """Maximum likelihood by Nelder and Mead's simplex.

    Args:
        law: to fit.
        counts: points of one run, at least one of them after some training.
        fixed: parameter's index -> value that it keeps.
        starts: parameters to begin from; None: the law's.
    """
    unit = float(counts.steps[counts.steps > 0].min())
    level = logit((counts.successes.sum() + 0.5) / (counts.episodes.sum() + 1.0))
    options = {"maxiter": 4_000, "maxfev": 4_000, "xatol": 1e-6, "fatol": 1e-9}

    def search(start: Sequence[float]) -> Fit:
        parameters = np.array(start, dtype=float)
        parameters[list(fixed)] = list(fixed.values())
        free = np.array([i for i in range(len(start)) if i not in fixed])

        def at(values: np.ndarray) -> Fit:
            chosen = parameters.copy()
            chosen[free] = values
            return Fit(law=law, parameters=chosen, unit=unit)

        found = minimize(lambda x: -at(x).score(counts), parameters[free], method="Nelder-Mead", options=options)
        return replace(at(found.x), log_likelihood=-float(found.fun))

    return max((search(start) for start in starts or law.starts(float(level))), key=lambda found: found.log_likelihood)


def exponent_interval(best: Fit, counts: Counts) -> tuple[float, float | None]:
    """95 % profile-likelihood interval of the saturating law's exponent k; from 0, or up to None, without a bound.

    The other parameters are fitted anew for every k; the interval ends where the log-likelihood is 1.92 below the best.
    """
    index, middle = 3, float(np.clip(best.parameters[3], SMALLEST_EXPONENT, LARGEST))

    def excess(log_exponent: float) -> float:
        start = list(best.parameters)
        # With the exponent goes the scale: the early slope k / c stays.
        start[2] += log_exponent - middle
        # Far from the best exponent that start may lead nowhere; one of the law's own stands beside it.
        starts = [start, SATURATING.starts(logit(counts.rate))[1]]
        profile = fit(SATURATING, counts, fixed={index: log_exponent}, starts=starts).log_likelihood
        return profile - best.log_likelihood + Z95**2 / 2

    def end(outermost: float) -> float | None:
        if excess(outermost) >= 0:
            return None
        return float(np.exp(brentq(excess, outermost, middle, xtol=0.05)))

    return end(SMALLEST_EXPONENT) or 0.0, end(LARGEST)
