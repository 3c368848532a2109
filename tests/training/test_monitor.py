import json
import math

import pytest

from vlarl.configs.monitor import MonitorConfig
from vlarl.errors import UserError
from vlarl.reporting.sinks import JsonlSink, read_jsonl
from vlarl.training.monitor import Monitor

CONFIG = MonitorConfig(window=2, flat_iterations=6)


def make_history(length=12, *, warmup=2, tasks=(0.5, 0.5), **curves):
    """Healthy rows; a curve maps the PPO iteration (0 is the first after the critic warm-up) to a value."""
    healthy = {
        "charts/episode_steps": lambda i: 150 - 2 * i,
        "charts/success_rate": lambda i: 0.4 + 0.04 * i,
        "charts/reward": lambda i: 0.4 + 0.04 * i,
        "charts/process_reward": lambda i: 0.0,
        "rollout/entropy": lambda i: 0.5 - 0.01 * i,
        "rollout/logprob_drift": lambda i: 1e-5,
        "rollout/staleness": lambda i: 0,
        "losses/policy_loss": lambda i: -0.01,
    }
    curves = {name.replace("__", "/"): curve for name, curve in curves.items()}
    return [
        {
            "iteration": iteration,
            "critic_warmup": int(iteration < warmup),
            **{name: curve(iteration - warmup) for name, curve in (healthy | curves).items()},
            **{f"curriculum/probability/{task}": share for task, share in enumerate(tasks)},
        }
        for iteration in range(length)
    ]


def warnings_of(history, config=CONFIG):
    """All warnings of a run that checks after every row."""
    monitor = Monitor(config)
    return [warning for end in range(1, len(history) + 1) for warning in monitor.check(history[:end])]


def codes(history, config=CONFIG):
    return [(warning.code, warning.iteration) for warning in warnings_of(history, config)]


def test_a_healthy_run_has_no_warnings():
    assert codes(make_history()) == []


def test_episode_length_rising():
    # First window (100 + 105) / 2 = 102.5; 1.15 times that is 117.9; (115 + 120) / 2 = 117.5 is below, the next above.
    history = make_history(charts__episode_steps=lambda i: 100 + 5 * i)
    (warning,) = warnings_of(history)
    assert (warning.code, warning.iteration) == ("episode_length_rising", 2 + 5)
    assert "from 102 to 122" in warning.message
    assert "ppo.learning_rate" in warning.advice


def test_logprobs_that_drift_apart():
    history = make_history(rollout__logprob_drift=lambda i: 1.1 if i in (3, 4) else 0.05)
    (warning,) = warnings_of(history)
    assert (warning.code, warning.iteration) == ("logprob_drift", 2 + 3)
    assert "1.10 nats" in warning.message
    # Older weights are another distribution.
    assert codes(make_history(rollout__logprob_drift=lambda i: 1.1, rollout__staleness=lambda i: 1)) == []


def test_process_reward_rises_without_success():
    # First window 0.005; 0.03 more is reached by the window of iterations 3 and 4, 0.035; before, at 2 and 3, 0.025.
    history = make_history(charts__process_reward=lambda i: 0.01 * i, charts__success_rate=lambda i: 0.4)
    (warning,) = warnings_of(history, CONFIG)
    assert (warning.code, warning.iteration) == ("reward_hacking", 2 + 4)
    assert "from 0.005 to 0.035" in warning.message
    # With success it is what the reward is for.
    assert codes(make_history(charts__process_reward=lambda i: 0.1 * i)) == []


def test_entropy_collapsing():
    # First window 0.75; 0.35 of it is 0.2625; windows: (0.25 + 0.125) / 2 at iteration 3 is the first that is full.
    history = make_history(rollout__entropy=lambda i: 2.0**-i)
    (warning,) = warnings_of(history)
    assert (warning.code, warning.iteration) == ("entropy_collapsing", 2 + 3)
    assert "from 0.750 to 0.188 nats" in warning.message


FLAT = {"charts__success_rate": lambda i: 0.3, "charts__reward": lambda i: 0.3}


def test_flat_while_concentrated():
    (warning,) = warnings_of(make_history(tasks=(0.15, 0.85), **FLAT))
    assert (warning.code, warning.iteration) == ("flat_while_concentrated", 2 + 5)
    assert "0.30 -> 0.30" in warning.message
    assert "task 1 got 85%" in warning.message


@pytest.mark.parametrize(
    ("tasks", "warns"),
    [
        ((1.0,), False),
        ((0.5, 0.5), False),
        ((0.79, 0.21), False),
        ((0.8, 0.1, 0.1), True),
        ((0.45, 0.45, 0.1), False),
        # Half of ten tasks: the frontier's floor of 25 % leaves one task at most 77.5 %.
        ((0.775, *[0.025] * 9), True),
        ((0.4, 0.4, *[0.025] * 8), True),
        ((0.1,) * 10, False),
    ],
)
def test_concentration(tasks, warns):
    assert bool(codes(make_history(tasks=tasks, **FLAT))) == warns


@pytest.mark.parametrize(
    "curves",
    [
        {"charts__success_rate": lambda i: 0.3 + 0.02 * i, "charts__reward": lambda i: 0.3},
        {"charts__success_rate": lambda i: 0.3, "charts__reward": lambda i: 0.3 + 0.02 * i},
        {"charts__success_rate": lambda i: 0.97, "charts__reward": lambda i: 0.97},
    ],
    ids=["success rises", "reward rises", "solved"],
)
def test_concentrated_but_not_failing(curves):
    assert codes(make_history(tasks=(0.9, 0.1), **curves)) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite(bad):
    history = make_history(losses__policy_loss=lambda i: bad if i in (3, 4, 8) else -0.01)
    warnings = warnings_of(history)
    # Once when it begins and once when it comes back.
    assert [(w.code, w.iteration) for w in warnings] == [("non_finite", 5), ("non_finite", 10)]
    assert "losses/policy_loss" in warnings[0].message


def test_non_finite_in_the_first_row_and_in_warm_up():
    assert codes(make_history(3, losses__policy_loss=lambda i: math.nan)) == [("non_finite", 0)]


def test_a_hole_in_a_curve_is_no_other_warning():
    names = ("charts__episode_steps", "rollout__entropy", "charts__reward")
    history = make_history(tasks=(0.9, 0.1), **FLAT | {name: lambda i: math.nan for name in names})
    assert codes(history) == [("non_finite", 0)]


def test_the_critic_warm_up_is_no_baseline():
    history = make_history(warmup=4, length=16, charts__episode_steps=lambda i: 50 if i < 0 else 150)
    assert codes(history) == []


def test_a_warning_comes_once_and_again_after_it_cleared():
    history = make_history(
        length=22,
        charts__success_rate=lambda i: 0.3,
        charts__episode_steps=lambda i: 200 if 6 <= i < 10 or i > 15 else 100,
    )
    assert codes(history) == [("episode_length_rising", 2 + 6), ("episode_length_rising", 2 + 16)]


def test_a_resumed_run_warns_as_an_uninterrupted_one(tmp_path):
    history = make_history(
        length=14, tasks=(0.9, 0.1), losses__policy_loss=lambda i: math.nan if i in (4, 5, 6) else 0.0, **FLAT
    )
    expected = warnings_of(history)
    assert {w.code for w in expected} == {"non_finite", "flat_while_concentrated"}
    for cut in range(1, len(history)):
        sink = JsonlSink(tmp_path / f"{cut}.jsonl")
        for row in history[:cut]:
            sink.log(row, row["iteration"])
        resumed = read_jsonl(sink.path)
        assert json.dumps(resumed)
        monitor = Monitor(CONFIG)
        after = []
        for row in history[cut:]:
            resumed.append(row)
            after += monitor.check(resumed)
        assert after == [warning for warning in expected if warning.iteration >= cut]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "monitor.window"),
        ({"window": 8}, "monitor.flat_iterations"),
        ({"entropy_fraction": 0.0}, "monitor.entropy_fraction"),
        ({"episode_length_rise": 1.5}, "monitor.episode_length_rise"),
        ({"concentrated_share": math.nan}, "monitor.concentrated_share"),
    ],
)
def test_impossible_configurations(changes, message):
    with pytest.raises(UserError, match=message):
        MonitorConfig(**changes)
