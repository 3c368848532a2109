"""Laws of growth: likelihoods by hand, data whose law is known, and what is said of them."""

from dataclasses import replace

import numpy as np
import pytest

from vlarl.reporting.growth import growth_chart, growth_markdown
from vlarl.studies.base import HOLDS, Claim
from vlarl.studies.growth import counts_of, describe_growth, first_tenth, last_tenth, pool
from vlarl.studies.laws import FLAT, LAWS, LOGARITHMIC, SATURATING, Counts, exponent_interval, fit, log_likelihood
from vlarl.studies.records import Record

UNIT = 6_000.0
STEPS = UNIT * np.arange(61)


def counts(probability: np.ndarray, episodes: int = 64, seed: int = 0) -> Counts:
    successes = np.random.default_rng(seed).binomial(episodes, probability)
    return Counts(steps=STEPS, successes=successes, episodes=np.full(len(STEPS), episodes))


def record(probability: np.ndarray, seed: int = 0) -> Record:
    run = counts(probability, seed=seed)
    after = np.append(STEPS[1:], STEPS[-1] + UNIT)
    return Record(
        fingerprint=f"{seed}", packages={}, outcomes={}, starts=(), warnings=(), card={},
        config={"ppo": {"rollout_batch_size": 64, "critic_warmup_iterations": 0}},
        curve=tuple((int(x), float(s) / 64) for x, s in zip(after, run.successes, strict=True)),
    )  # fmt: skip


GROWING = 0.5 + 0.09 * np.log1p(STEPS / UNIT)
SATURATED = 0.9 - 0.5 * (1 + STEPS / (4 * UNIT)) ** -2.0


def test_likelihood_by_hand():
    two = Counts(steps=np.array([0.0, 1.0]), successes=np.array([3, 4]), episodes=np.array([4, 4]))
    # 3 ln 0.75 + ln 0.25 + 4 ln 0.5
    assert log_likelihood(two, np.array([0.75, 0.5])) == pytest.approx(
        3 * np.log(0.75) + np.log(0.25) + 4 * np.log(0.5)
    )
    assert two.rate == 0.875


def test_the_flat_law_is_the_mean_and_certain_outcomes_are_no_trouble():
    run = counts(np.full(61, 0.6))
    assert fit(FLAT, run).predict(STEPS) == pytest.approx(np.full(61, run.rate), abs=1e-4)
    solved = Counts(steps=STEPS, successes=np.full(61, 64), episodes=np.full(61, 64))
    for law in LAWS:
        assert fit(law, solved).predict(STEPS).min() > 0.99


def test_fits_find_the_law_that_made_the_data():
    """With 4,000 episodes per point the parameters come back."""
    logarithmic = fit(LOGARITHMIC, counts(GROWING, 4_000))
    assert logarithmic.parameters == pytest.approx([0.5, 0.09], abs=0.01)
    run = counts(SATURATED, 4_000)
    found = fit(SATURATING, run)
    assert found.predict(STEPS) == pytest.approx(SATURATED, abs=0.01)
    low, high = exponent_interval(found, run)
    assert low < 2.0 < high and high / low < 3
    # No other law explains these outcomes.
    assert all(found.log_likelihood > fit(law, run).log_likelihood + 50 for law in (FLAT, LOGARITHMIC))


def test_an_exponent_that_nothing_bounds_says_so():
    run = counts(np.full(61, 0.6))
    assert exponent_interval(fit(SATURATING, run), run) == (0.0, None)


def test_rollouts_count_for_the_policy_that_made_them():
    """The first iteration's trajectories are those of the policy before any training."""
    run = counts_of(record(GROWING))
    assert run.steps[0] == 0 and run.steps[-1] == STEPS[-1] and run.episodes[0] == 64
    assert np.array_equal(run.successes, counts(GROWING).successes)
    pooled = pool([run, run.select(STEPS < 10 * UNIT)])
    assert len(pooled.steps) == 10 and pooled.episodes[0] == 128 and pooled.successes[3] == 2 * run.successes[3]


def test_the_critic_warm_up_is_no_training_of_the_policy():
    warmed = record(GROWING)
    warmed = replace(warmed, config={"ppo": {"rollout_batch_size": 64, "critic_warmup_iterations": 2}})
    run = counts_of(warmed)
    # Iterations 0, 1 and 2 are collected by the policy that training starts from.
    assert run.steps[:4].tolist() == [0, 0, 0, UNIT] and run.steps[-1] == STEPS[-1] - 2 * UNIT


def test_an_exponential_excludes_small_exponents():
    """Its exponent is as large as may be: bounded from below, not from above."""
    run = counts(0.9 - 0.5 * np.exp(-STEPS / (8 * UNIT)), 2_000)
    low, high = exponent_interval(fit(SATURATING, run), run)
    assert low > 1 and (high is None or high > 1_000)


def test_first_and_last_tenth_by_hand():
    run = Counts(steps=np.arange(11.0), successes=np.arange(11), episodes=np.full(11, 10))
    # Steps 0 and 1: (0 + 1) / 20; step 10 alone.
    assert first_tenth(run) == pytest.approx(0.05) and last_tenth(run) == 1.0


@pytest.mark.parametrize(
    ("probability", "law", "diminishing"),
    [
        (GROWING, "logarithmic", "undecided"),
        (SATURATED, "saturating", "undecided"),
        (np.full(61, 0.6), "flat", "undecided"),
    ],
)
def test_the_true_law_is_never_excluded(probability, law, diminishing):
    found = describe_growth("long", [record(probability, seed) for seed in (10, 11, 12)])
    assert law in found["predicts"] and found["diminishes"]["verdict"] == diminishing and found["seeds"] == 3
    assert ("flat" in found["predicts"]) == (law == "flat")


def test_a_clear_bend_is_a_diminishing_return():
    """Success rises until half of the training, then stays: the last doubling gains nothing."""
    bend = 0.3 + 0.5 * np.minimum(1.0, STEPS / (30 * UNIT))
    found = describe_growth("long", [record(bend, seed) for seed in range(3)])
    assert found["diminishes"]["verdict"] == "yes" and found["diminishes"]["ci95"][1] < 0
    text = "\n".join(growth_markdown(found))
    assert "diminishing returns: yes" in text and "| 360k | 80" in text
    assert growth_chart(found).count('class="line') == 3


def test_a_law_predicts_what_it_has_not_seen():
    """The flat law's prediction of the last tenth is the success of the first half, however much came between."""
    found = describe_growth("long", [record(np.where(STEPS <= 30 * UNIT, 0.25, 0.75))])
    run = counts_of(record(np.where(STEPS <= 30 * UNIT, 0.25, 0.75)))
    half, end = run.select(run.steps <= 30 * UNIT), run.select(run.steps > 54 * UNIT)
    expected = log_likelihood(end, np.full(len(end.steps), half.rate))
    assert found["laws"][0]["held_out"] == pytest.approx(expected, abs=0.1)


def test_growth_is_judged_from_the_curves():
    from vlarl.studies.analysis import judge

    claim = Claim(text="it grows", confidence="low", better="long", worse="long", metric="growth")
    found = judge(claim, range(3), {("long", seed): record(GROWING, seed) for seed in range(3)})
    assert found["verdict"] == HOLDS and found["points"] == pytest.approx(100 * 0.09 * (np.log(58) - np.log(4)), abs=6)
