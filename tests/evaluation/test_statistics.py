import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.evaluation.statistics import (
    interquartile_mean,
    interquartile_mean_interval,
    is_within_standard_error,
    mcnemar_p_value,
    mean_interval,
    paired_bootstrap_interval,
    paired_difference_interval,
    smallest_gain,
    wilson_interval,
)


def pairs(both: int, up: int, down: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes before and after with these numbers of pairs."""
    before = np.repeat([True, False, True, False], [both, up, down, neither])
    after = np.repeat([True, True, False, False], [both, up, down, neither])
    return before, after


@pytest.mark.parametrize(
    ("successes", "episodes", "expected"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, score method without continuity correction.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        # By symmetry with 0 of 20.
        (20, 20, (0.8389, 1.0)),
    ],
)
def test_wilson_interval_published(successes, episodes, expected):
    assert wilson_interval(successes, episodes) == pytest.approx(expected, abs=5e-5)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_where_the_score_test_rejects(counts):
    successes, episodes = counts
    low, high = wilson_interval(successes, episodes)
    rate = successes / episodes
    assert 0 <= low <= rate + 1e-12
    assert rate - 1e-12 <= high <= 1
    for bound in (low, high):
        if 1e-9 < bound < 1 - 1e-9:
            z = (rate - bound) / np.sqrt(bound * (1 - bound) / episodes)
            assert abs(z) == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize(("successes", "episodes"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_of_nothing(successes, episodes):
    with pytest.raises(ValueError, match=f"{successes} successes of {episodes} episodes"):
        wilson_interval(successes, episodes)


def test_mcnemar_by_hand():
    # 12 up and 2 down: 2 * (1 + 14 + 91) / 2^14.
    before, after = pairs(36, 12, 2, 0)
    assert mcnemar_p_value(before, after) == pytest.approx(212 / 2**14)
    assert mcnemar_p_value(after, before) == pytest.approx(212 / 2**14)


def test_mcnemar_without_change():
    assert mcnemar_p_value(*pairs(5, 0, 0, 5)) == 1.0
    assert mcnemar_p_value(*pairs(5, 3, 3, 5)) == 1.0


def test_mcnemar_ignores_concordant_pairs():
    assert mcnemar_p_value(*pairs(0, 8, 1, 0)) == mcnemar_p_value(*pairs(50, 8, 1, 40)) == pytest.approx(20 / 2**9)


def test_mcnemar_keeps_its_level_without_an_effect():
    rng = np.random.default_rng(0)
    p_values = [mcnemar_p_value(*(rng.random((2, 60)) < 0.5)) for _ in range(400)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.06


def test_paired_interval_published():
    # Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10 on the table 36, 12, 2, 0.
    assert paired_difference_interval(*pairs(36, 12, 2, 0)) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize(
    ("counts", "phi"),
    [
        # (4 * 4 - 3 * 1 - 12 / 2) / sqrt(7 * 5 * 5 * 7) = 7 / 35
        ((4, 3, 1, 4), 0.2),
        # 3 * 3 - 3 * 2 = 3 is less than 11 / 2: the correction leaves no association.
        ((3, 3, 2, 3), 0.0),
    ],
)
def test_paired_interval_with_positive_association_by_hand(counts, phi):
    both, up, down, _ = counts
    n = sum(counts)
    after, before = (both + up) / n, (both + down) / n
    (low_after, high_after), (low_before, high_before) = (wilson_interval(both + k, n) for k in (up, down))
    a, b = after - low_after, high_before - before
    c, d = high_after - after, before - low_before
    expected = (
        after - before - np.sqrt(a**2 - 2 * phi * a * b + b**2),
        after - before + np.sqrt(c**2 - 2 * phi * c * d + d**2),
    )
    assert paired_difference_interval(*pairs(*counts)) == pytest.approx(expected)


def test_paired_interval_with_negative_association_by_hand():
    # 1 of 4 before and 3 of 4 after, phi = (0 - 3) / sqrt(3 * 1 * 1 * 3) = -1: the widths add up.
    low, high = paired_difference_interval(*pairs(0, 3, 1, 0))
    (low_after, high_after), (low_before, high_before) = wilson_interval(3, 4), wilson_interval(1, 4)
    assert low == pytest.approx(0.5 - (0.75 - low_after) - (high_before - 0.25))
    assert high == pytest.approx(min(1.0, 0.5 + (high_after - 0.75) + (0.25 - low_before)))


COUNTS = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda counts: sum(counts) > 0)


@given(COUNTS)
def test_paired_interval_holds_the_difference_and_turns_with_it(counts):
    before, after = pairs(*counts)
    low, high = paired_difference_interval(before, after)
    difference = after.mean() - before.mean()
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    assert paired_difference_interval(after, before) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize("counts", [(10, 0, 0, 0), (0, 0, 0, 10), (0, 10, 0, 0), (0, 0, 10, 0)])
def test_paired_interval_at_the_corners(counts):
    low, high = paired_difference_interval(*pairs(*counts))
    assert np.isfinite([low, high]).all()
    assert low < high


def test_paired_interval_covers():
    rng = np.random.default_rng(1)
    shares = [0.4, 0.35, 0.05, 0.2]  # a true difference of 0.3
    covered = 0
    for _ in range(500):
        low, high = paired_difference_interval(*pairs(*rng.multinomial(60, shares)))
        covered += low <= 0.3 <= high
    assert 0.93 <= covered / 500 <= 0.99


@pytest.mark.parametrize("function", [mcnemar_p_value, paired_difference_interval])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 2)])
def test_outcomes_must_be_paired(function, before, after):
    with pytest.raises(ValueError, match=f"{before} before, {after} after"):
        function(np.zeros(before, dtype=bool), np.zeros(after, dtype=bool))


def test_paired_bootstrap_by_hand():
    before = np.zeros(100, dtype=bool)
    after = np.arange(100) < 20
    # 20 of 100 changed upwards: 0.2 +- 1.96 sqrt(0.2 x 0.8 / 100) = 0.2 +- 0.078.
    low, high = paired_bootstrap_interval([(before, after)])
    assert low == pytest.approx(0.122, abs=0.012) and high == pytest.approx(0.278, abs=0.012)
    # Strata count alike: the mean of +0.2 and -0.2, and half the variance.
    low, high = paired_bootstrap_interval([(before, after), (after, before)])
    assert low == pytest.approx(-0.055, abs=0.012) and high == pytest.approx(0.055, abs=0.012)
    assert paired_bootstrap_interval([(before, before)]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="not paired"):
        paired_bootstrap_interval([(before, after[:50])])


def test_mean_interval_is_students():
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.303: 2 +- 4.303 / sqrt(3).
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((-0.484, 4.484), abs=1e-3)
    assert mean_interval([1.0]) is None


def test_interquartile_mean_leaves_out_both_quarters():
    scores = np.array([[0.0, 0.1], [0.2, 0.4], [0.6, 0.8], [0.9, 1.0]])
    # Of eight scores the middle four: 0.2, 0.4, 0.6, 0.8.
    assert interquartile_mean(scores) == pytest.approx(0.5)
    assert interquartile_mean(np.array([[0.0, 0.0, 1.0, 1.0]])) == 0.5
    low, high = interquartile_mean_interval(scores)
    assert 0.0 <= low < 0.5 < high <= 1.0
    # Runs that agree leave nothing to doubt.
    assert interquartile_mean_interval(np.full((3, 2), 0.7)) == pytest.approx((0.7, 0.7))


def test_smallest_gain():
    # 2.8 sqrt(0.3 / 100).
    assert smallest_gain(100, 0.3) == pytest.approx(0.1534, abs=1e-3)
    assert smallest_gain(400, 0.3) == pytest.approx(smallest_gain(100, 0.3) / 2)


@pytest.mark.parametrize(
    ("rate", "highest", "expected"),
    # With two successes and two failures more: 92 of 104, error 0.0320; 102 of 104, error 0.0137.
    [(0.9, 0.9, True), (0.869, 0.9, True), (0.867, 0.9, False), (0.99, 1.0, True), (0.98, 1.0, False)],
)
def test_within_one_standard_error(rate, highest, expected):
    assert is_within_standard_error(rate, highest, 100) == expected
