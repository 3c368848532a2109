import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vlarl.algorithms.advantages import compute_gae, normalize_advantages

FLOATS = st.floats(-5, 5, width=32)


def doubles(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gae(rewards, values, final_values, lengths, terminated, gamma, gae_lambda) -> tuple[Tensor, Tensor]:
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return compute_gae(
        doubles(rewards), doubles(values), doubles(final_values), offsets, torch.tensor(terminated), gamma, gae_lambda
    )


def test_hand_arithmetic_with_termination_and_truncation():
    # Trajectory 0 terminates: its final value 100 is not used.
    #   delta_2 = 2 - 0.5 = 1.5, delta_1 = 0.5 * 0.5 - 1 = -0.75, delta_0 = 1 + 0.5 * 1 - 0.5 = 1
    #   A_2 = 1.5, A_1 = -0.75 + 0.25 * 1.5 = -0.375, A_0 = 1 - 0.25 * 0.375 = 0.90625
    # Trajectory 1 is truncated: its final value 8 continues it.
    #   delta_1 = 1 + 0.5 * 8 - 4 = 1, delta_0 = 0.5 * 4 - 2 = 0, A_1 = 1, A_0 = 0.25
    advantages, returns = gae(
        rewards=[1, 0, 2, 0, 1],
        values=[0.5, 1, 0.5, 2, 4],
        final_values=[100, 8],
        lengths=[3, 2],
        terminated=[True, False],
        gamma=0.5,
        gae_lambda=0.5,
    )
    assert advantages.tolist() == [0.90625, -0.375, 1.5, 0.25, 1.0]
    assert returns.tolist() == [1.40625, 0.625, 2.0, 2.25, 5.0]


def test_one_turn_trajectories():
    advantages, _ = gae([1, 1], [0.25, 0.25], [4, 4], [1, 1], [True, False], gamma=0.5, gae_lambda=0.9)
    assert advantages.tolist() == [0.75, 2.75]


@st.composite
def packed_trajectories(draw):
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    turns, count = sum(lengths), len(lengths)
    return {
        "rewards": draw(st.lists(FLOATS, min_size=turns, max_size=turns)),
        "values": draw(st.lists(FLOATS, min_size=turns, max_size=turns)),
        "final_values": draw(st.lists(FLOATS, min_size=count, max_size=count)),
        "lengths": lengths,
        "terminated": draw(st.lists(st.booleans(), min_size=count, max_size=count)),
    }


@given(packed_trajectories(), st.floats(0, 1))
def test_lambda_one_returns_are_discounted_sums(data, gamma):
    _, returns = gae(**data, gamma=gamma, gae_lambda=1.0)
    start = 0
    for length, final, terminated in zip(data["lengths"], data["final_values"], data["terminated"], strict=True):
        rewards = data["rewards"][start : start + length]
        for turn in range(length):
            ahead = sum(gamma**k * reward for k, reward in enumerate(rewards[turn:]))
            bootstrap = 0.0 if terminated else gamma ** (length - turn) * final
            assert returns[start + turn].item() == pytest.approx(ahead + bootstrap, abs=1e-9)
        start += length


@given(packed_trajectories())
def test_trajectories_do_not_see_each_other(data):
    together, _ = gae(**data, gamma=0.9, gae_lambda=0.8)
    start = 0
    for m, length in enumerate(data["lengths"]):
        rows = slice(start, start + length)
        alone, _ = gae(
            data["rewards"][rows],
            data["values"][rows],
            [data["final_values"][m]],
            [length],
            [data["terminated"][m]],
            gamma=0.9,
            gae_lambda=0.8,
        )
        assert torch.equal(together[rows], alone)
        start += length


@pytest.mark.parametrize("case", ["g0", "g1", "g2", "g3"])
def test_reference_gae(published, case):
    raw = published.arrays("rl_gae.npz")
    array = {name.removeprefix(f"{case}_"): value for name, value in raw.items() if name.startswith(f"{case}_")}
    # [T, B] -> packed: columns one after another, each cut where the flag after a turn says that an episode ended.
    ended = np.concatenate([array["dones"][1:], array["dones_next"][None]])
    cut = ended.copy()
    cut[-1] = True
    ends = np.flatnonzero(cut.T.reshape(-1)) + 1
    terminated = ended.T.reshape(-1)[ends - 1]
    columns = (ends - 1) // len(ended)
    packed = {name: torch.from_numpy(array[name].T.reshape(-1).copy()) for name in ("scores", "values")}
    advantages, returns = compute_gae(
        packed["scores"],
        packed["values"],
        torch.from_numpy(array["next_value"][columns]),
        torch.from_numpy(np.concatenate([[0], ends])),
        torch.from_numpy(terminated),
        float(array["gamma"]),
        float(array["lam"]),
    )
    shape = array["scores"].T.shape
    for name, ours in (("advantages", advantages), ("returns", returns)):
        tolerance = 1e-5 * max(1.0, np.abs(array[name]).max())
        published.within(f"GAE, {name}", ours.reshape(shape).T, array[name], tolerance)


def test_normalization_weighs_turns_by_their_tokens():
    # mean = 0.75 * 1 + 0.25 * 3 = 1.5, variance = 0.75 * 0.25 + 0.25 * 2.25 = 0.75
    normalized = normalize_advantages(doubles([1, 3]), doubles([3, 1]))
    assert normalized.tolist() == pytest.approx([-0.5 / 0.75**0.5, 1.5 / 0.75**0.5], rel=1e-7)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 5)), min_size=2, max_size=8))
def test_normalization_equals_that_of_repeated_turns(rows):
    advantages, counts = doubles([a for a, _ in rows]), torch.tensor([c for _, c in rows])
    repeated = advantages.repeat_interleave(counts)
    expected = (repeated - repeated.mean()) / (repeated.std(correction=0) + 1e-8)
    actual = normalize_advantages(advantages, counts.double()).repeat_interleave(counts)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_equal_advantages_become_zero():
    assert normalize_advantages(doubles([2, 2, 2]), doubles([1, 5, 2])).abs().max() < 1e-6


def test_reference_normalization_up_to_bessels_correction(published):
    raw = published.arrays("rl_ppo_loss.npz")
    advantages, expected = torch.from_numpy(raw["advantages"]), raw["advantages_normalized"]
    count = len(expected)
    actual = normalize_advantages(advantages, torch.ones(count)).numpy()
    published.within("PPO, normalised advantages", actual * np.sqrt((count - 1) / count), expected, 1e-5)
