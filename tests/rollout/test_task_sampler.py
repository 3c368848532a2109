import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.configs.curriculum import CurriculumConfig
from vlarl.errors import UserError
from vlarl.rollout.task_sampler import TaskSampler, compute_probabilities

STRATEGIES = ("frontier", "uniform", "failure", "paper")
TASKS = (8, 5, 2)


def make_sampler(seed: int = 0, **changes) -> TaskSampler:
    return TaskSampler(CurriculumConfig(**changes), TASKS, num_starts=200, seed=seed)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # s (1 - s) = 0.25, 0.09, 0.16, together 0.5
        ({"strategy": "frontier", "min_share": 0.0}, [0.5, 0.18, 0.32]),
        # 0.4 / 3 for each, the other 0.6 as above
        ({"strategy": "frontier", "min_share": 0.4}, [0.4 / 3 + 0.3, 0.4 / 3 + 0.108, 0.4 / 3 + 0.192]),
        ({"strategy": "uniform"}, [1 / 3, 1 / 3, 1 / 3]),
        # 1 - s = 0.5, 0.1, 0.8, together 1.4; squared 0.25, 0.01, 0.64, together 0.9
        ({"strategy": "failure", "temperature": 1.0}, [0.5 / 1.4, 0.1 / 1.4, 0.8 / 1.4]),
        ({"strategy": "failure", "temperature": 0.5}, [0.25 / 0.9, 0.01 / 0.9, 0.64 / 0.9]),
        # e^0.5 = 1.648721, e^0.1 = 1.105171, e^0.8 = 2.225541, together 4.979433
        ({"strategy": "paper", "temperature": 1.0}, [0.3311062, 0.2219471, 0.4469467]),
        # e^1 = 2.718282, e^0.2 = 1.221403, e^1.6 = 4.953032, together 8.892717
        ({"strategy": "paper", "temperature": 0.5}, [0.3056751, 0.1373487, 0.5569762]),
    ],
)
def test_probabilities_by_hand(changes, expected):
    actual = compute_probabilities(np.array([0.5, 0.9, 0.2]), CurriculumConfig(**changes))
    np.testing.assert_allclose(actual, expected, atol=2e-7)


def test_failure_weighs_solved_tasks_by_1e_9():
    actual = compute_probabilities(np.array([1.0, 0.0]), CurriculumConfig(strategy="failure"))
    assert actual[0] == pytest.approx(1e-9, rel=1e-6)


@pytest.mark.parametrize("strategy", ["failure", "paper"])
def test_a_tiny_temperature_takes_the_worst_task(strategy):
    # 0.1^1000 and 0.2^1000 are both 0 in float64.
    config = CurriculumConfig(strategy=strategy, temperature=1e-3)
    assert compute_probabilities(np.array([0.9, 0.8]), config).tolist() == pytest.approx([0, 1])


@given(
    st.sampled_from(STRATEGIES),
    st.lists(st.floats(0, 1), min_size=1, max_size=10),
    st.floats(1e-3, 100),
    st.floats(0.01, 1),
)
def test_probabilities_are_a_distribution(strategy, success, temperature, min_share):
    config = CurriculumConfig(strategy=strategy, temperature=temperature, min_share=min_share)
    probabilities = compute_probabilities(np.array(success), config)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities.min() >= 0
    if strategy == "frontier":
        assert probabilities.min() >= min_share / len(success) - 1e-12
    order = np.argsort(success)
    if strategy in ("failure", "paper"):
        assert all(probabilities[a] >= probabilities[b] - 1e-12 for a, b in pairwise(order))


def test_estimate_has_a_prior_and_forgets():
    sampler = make_sampler(memory=0.5)
    assert sampler.success_estimates().tolist() == [0.5, 0.5, 0.5]
    # Task 8: 3 of 4, task 5: 0 of 2, task 2: nothing.
    sampler.update([8, 8, 5, 8, 5, 8], np.array([1, 1, 0, 0, 0, 1], dtype=bool))
    assert sampler.success_estimates().tolist() == pytest.approx([4 / 6, 1 / 4, 1 / 2])
    # Task 8: 1.5 + 0 successes and 0.5 + 2 failures; task 5: 0 and 1, half way back to the prior.
    sampler.update([8, 8], np.array([False, False]))
    assert sampler.success_estimates().tolist() == pytest.approx([2.5 / 6, 1 / 3, 1 / 2])


def test_prior_strength():
    sampler = make_sampler(prior_successes=2.0, prior_failures=6.0)
    assert sampler.success_estimates().tolist() == [0.25] * 3
    sampler.update([8, 8], np.array([True, True]))
    assert sampler.success_estimates().tolist() == pytest.approx([0.4, 0.25, 0.25])


@pytest.mark.parametrize("iterations", [1, 40])
def test_frontier_never_starves_a_task(iterations):
    sampler = make_sampler(memory=1.0)
    for _ in range(iterations):
        sampler.update([8] * 32 + [5] * 32 + [2] * 32, np.arange(96) % 2 * (np.arange(96) < 32) > 0)
    probabilities = sampler.probabilities()
    assert probabilities.argmax() == 0
    assert probabilities.min() >= 0.25 / 3
    counts = Counter(item.start.task_id for item in sampler.work_list(iterations, 64))
    assert min(counts[task] for task in TASKS) >= 5


@given(
    seed=st.integers(0, 1000),
    iteration=st.integers(0, 1000),
    count=st.integers(1, 100),
    outcomes=st.lists(st.booleans(), max_size=30),
    strategy=st.sampled_from(STRATEGIES),
)
def test_counts_are_within_one_of_their_expectation(seed, iteration, count, outcomes, strategy):
    sampler = make_sampler(seed, strategy=strategy)
    sampler.update([TASKS[i % 3] for i in range(len(outcomes))], np.array(outcomes, dtype=bool))
    items = sampler.work_list(iteration, count)
    counts = Counter(item.start.task_id for item in items)
    for task, probability in zip(TASKS, sampler.probabilities(), strict=True):
        assert abs(counts[task] - count * probability) < 1 + 1e-9
    assert [item.trajectory_index for item in items] == list(range(iteration * count, (iteration + 1) * count))
    assert {item.seed for item in items} == {seed}
    assert {item.start.split for item in items} == {"train"}
    assert all(0 <= item.start.index < 200 for item in items)


def test_tasks_come_in_random_order():
    tasks = [item.start.task_id for item in make_sampler().work_list(0, 60)]
    changes = sum(a != b for a, b in pairwise(tasks))
    assert changes > 20


def test_starts_cover_the_pool():
    sampler = make_sampler()
    drawn = [item.start.index for iteration in range(40) for item in sampler.work_list(iteration, 64)]
    # 2,560 draws from 200: the expected number never drawn is 200 * (1 - 1/200)^2560 = 0.0005.
    assert len(set(drawn)) == 200
    assert max(Counter(drawn).values()) < 40


def test_work_list_follows_from_seed_and_iteration_alone():
    sampler = make_sampler(seed=3)
    first = [sampler.work_list(iteration, 32) for iteration in range(3)]
    again = [make_sampler(seed=3).work_list(iteration, 32) for iteration in (2, 1, 0)]
    assert first == again[::-1]

    def drawn(items):
        return [(item.start.task_id, item.start.index) for item in items]

    assert drawn(first[0]) != drawn(first[1])
    assert drawn(first[0]) != drawn(make_sampler(seed=4).work_list(0, 32))


def test_state_survives_json_bit_for_bit():
    sampler = make_sampler()
    for iteration in range(5):
        items = sampler.work_list(iteration, 16)
        sampler.update([item.start.task_id for item in items], np.arange(16) % 3 == 0)
    restored = make_sampler()
    restored.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert np.array_equal(restored.probabilities(), sampler.probabilities())
    assert restored.work_list(5, 16) == sampler.work_list(5, 16)
    for both in (sampler, restored):
        both.update([8, 5], np.array([True, False]))
    assert restored.state_dict() == sampler.state_dict()


@pytest.mark.parametrize("window", [5, 20])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_reference_probabilities(published, window, temperature):
    # The reference weighs the initial states of a task; the rules are the same.
    raw = published.arrays("rl_curriculum.npz")
    success = success_rates(raw["episodes_task_state_success"], len(raw[f"success_rate_w{window}"]), raw, window)
    published.within("curriculum, success", success, raw[f"success_rate_w{window}"], 1e-12)
    rows = {
        "dev": ("failure", "probs", raw["task_ids_of_env"]),
        "first": ("failure_floored", "probs", range(len(success))),
    }
    rows["expoption"] = ("paper", "probs_by_task", range(len(success)))
    for name, (strategy, suffix, tasks) in rows.items():
        config = CurriculumConfig(strategy=strategy, temperature=temperature)
        for row, task in enumerate(tasks):
            expected = raw[f"{name}_w{window}_T{temperature}_{suffix}"][row]
            published.within(f"curriculum, {strategy}", compute_probabilities(success[task], config), expected, 1e-9)


def success_rates(episodes: np.ndarray, num_tasks: int, raw: dict[str, np.ndarray], window: int) -> np.ndarray:
    """[tasks, states] mean of the last `window` outcomes, 0 where there is none; checks the mean over tried states."""
    rates = np.zeros((num_tasks, int(raw["n_states"])))
    tried = np.zeros(rates.shape, dtype=bool)
    for task, state in {(int(t), int(s)) for t, s, _ in episodes}:
        outcomes = episodes[(episodes[:, 0] == task) & (episodes[:, 1] == state), 2]
        rates[task, state], tried[task, state] = outcomes[-window:].mean(), True
    assert np.allclose(raw[f"dev_w{window}_task_average"], [r[t].mean() for r, t in zip(rates, tried, strict=True)])
    return rates


def test_floored_failures_by_hand():
    config = CurriculumConfig(strategy="failure_floored", temperature=0.5)
    # Weights 1, 0.25, max(0.01, 0.1).
    assert compute_probabilities(np.array([0.0, 0.5, 0.9]), config) == pytest.approx(np.array([1, 0.25, 0.1]) / 1.35)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "frontir"}, "frontier"),
        ({"temperature": 0.0}, "curriculum.temperature"),
        ({"prior_successes": 0.0}, "curriculum.prior_successes"),
        ({"memory": 1.5}, "curriculum.memory"),
        ({"min_share": -0.1}, "curriculum.min_share"),
    ],
)
def test_impossible_configurations(changes, message):
    with pytest.raises(UserError, match=message):
        CurriculumConfig(**changes)


def test_each_start_is_played_as_often_as_asked():
    items = make_sampler().work_list(3, 12, trajectories_per_start=4)
    assert [item.trajectory_index for item in items] == list(range(36, 48))
    starts = [item.start for item in items]
    assert all(len(set(starts[row : row + 4])) == 1 for row in (0, 4, 8))
    assert len(set(starts)) == 3
