"""Collecting demonstrations: what is kept, what is masked, what repeats."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.published_libero import write_published
from vlarl.configs.env import EnvConfig
from vlarl.configs.training import DemonstrationConfig
from vlarl.data.libero_hdf5 import read_demonstrations
from vlarl.data.sft import SFTDataset
from vlarl.envs.libero.tasks import load_task
from vlarl.errors import UserError
from vlarl.experts.demonstrations import check_demonstrations, collect_demonstrations
from vlarl.experts.recording import CollectionJob, collect_task, record
from vlarl.types import Start

NO_MISTAKE = DemonstrationConfig(recovery_probability=0.0)
A_MISTAKE = DemonstrationConfig(recovery_probability=1.0)


def make_job(folder, episodes=3, seed=0, max_steps=200, num_starts=50, recovery=0.5):
    return CollectionJob(
        config=EnvConfig(task_suite="libero_goal", task_ids=(8,)),
        demonstrations=DemonstrationConfig(episodes_per_task=episodes, recovery_probability=recovery),
        seed=seed,
        folder=folder,
        max_steps={8: max_steps},
        num_starts=num_starts,
    )


def test_demonstrations_have_a_seed_of_their_own(tmp_path, monkeypatch):
    from vlarl.experts import demonstrations as module

    seen = []

    def run(jobs, progress):
        seen.extend(job.seed for job in jobs)
        raise InterruptedError

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(module, "environment_module", lambda name: SimpleNamespace(prepare=lambda config, line: None))
    config = EnvConfig(name="libero", task_suite="libero_goal", task_ids=(8,))
    with pytest.raises(InterruptedError):
        collect_demonstrations(config, DemonstrationConfig(seed=7), tmp_path, print)
    assert seen == [7]


def test_frame_is_what_was_seen_before_the_action(point_slot):
    start = Start(task_id=8, split="train", index=3)
    demonstration = record(point_slot, start, np.random.default_rng(0), NO_MISTAKE, max_steps=200)
    episode = demonstration.episode

    steps = len(episode.actions)
    assert episode.success and episode.start == start
    assert episode.images[:, 0, 0, 0].tolist() == list(range(steps))
    assert episode.states[:, 0].tolist() == list(range(steps))
    # The hand moves by STEP x action from each frame to the next.
    moved = np.diff(demonstration.ee_positions, axis=0)
    np.testing.assert_allclose(moved, 0.015 * episode.actions[:-1, :3], atol=1e-9)
    assert episode.target_mask.all()


def test_forced_actions_never_become_targets(point_slot):
    start = Start(task_id=8, split="train", index=3)
    episode = record(point_slot, start, np.random.default_rng(0), A_MISTAKE, max_steps=200).episode

    forced = ~episode.target_mask
    assert 4 <= forced.sum() <= 22
    horizon = 8
    dataset = SFTDataset.from_episodes([episode], horizon)
    first, last = np.flatnonzero(forced)[[0, -1]]
    frames = set(dataset.observations.images[:, 0, 0, 0].tolist())
    assert frames == set(range(len(forced))) - set(range(first - horizon + 1, last + 1))


def test_pushes_are_masked_and_the_way_back_is_shown(point_slot):
    start = Start(task_id=8, split="train", index=3)
    noisy = DemonstrationConfig(recovery_probability=0.0, action_noise=0.7)
    plain = record(point_slot, start, np.random.default_rng(1), NO_MISTAKE, max_steps=200).episode
    demonstration = record(point_slot, start, np.random.default_rng(1), noisy, max_steps=200)
    episode = demonstration.episode
    pushed = ~episode.target_mask
    assert episode.success and plain.target_mask.all() and 3 <= pushed.sum() < len(pushed) / 2
    # What is written is what was executed, pushes and all.
    moved = np.diff(demonstration.ee_positions, axis=0)
    np.testing.assert_allclose(moved, 0.015 * episode.actions[:-1, :3], atol=1e-9)
    assert np.abs(episode.actions).max() <= 1
    first = int(np.flatnonzero(pushed)[0])
    np.testing.assert_array_equal(episode.actions[:first], plain.actions[:first])
    assert not np.array_equal(episode.actions[first, :3], plain.actions[first, :3])
    assert episode.actions[first, 6] == plain.actions[first, 6]


def test_only_successes_from_distinct_starts_are_kept(point_slot, tmp_path):
    # Every other attempt fails: the success is not seen.
    step = point_slot.step_once
    point_slot.step_once = lambda action: step(action) and len(point_slot.resets) % 2 == 0
    lines = []
    summary = collect_task(point_slot, 8, make_job(tmp_path), lines.append)

    assert (summary.attempts, summary.successes, summary.success_rate) == (6, 3, 0.5)
    assert len(lines) == 3
    assert len({s.index for s in point_slot.resets}) == 6
    assert {s.split for s in point_slot.resets} == {"train"}
    episodes = read_demonstrations(tmp_path / summary.file)
    assert [e.start for e in episodes] == point_slot.resets[1::2]
    assert all(e.success for e in episodes)
    assert summary.mean_steps == np.mean([len(e.actions) for e in episodes])


def test_hopeless_expert_is_given_up(point_slot, tmp_path):
    with pytest.raises(UserError, match=r"solved only 0 of 12 training starts, 3 are wanted"):
        collect_task(point_slot, 8, make_job(tmp_path, max_steps=20), lambda line: None)
    assert len(point_slot.resets) == 12
    assert not list(tmp_path.iterdir())


def test_repeats_for_a_seed_and_differs_between_seeds(point_slot, tmp_path):
    files = []
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        summary = collect_task(point_slot, 8, make_job(tmp_path / folder, seed=seed), lambda line: None)
        files.append(read_demonstrations(tmp_path / folder / summary.file))
    for left, right in zip(files[0], files[1], strict=True):
        np.testing.assert_array_equal(left.actions, right.actions)
        assert left.start == right.start
    assert [e.start for e in files[0]] != [e.start for e in files[2]]


def test_other_environments_have_no_expert():
    with pytest.raises(UserError, match="'libero' only, not for 'toy'"):
        check_demonstrations(EnvConfig(name="toy", task_suite="toy"), DemonstrationConfig())


def test_task_without_expert_is_refused_before_anything_is_built():
    message = "task 0 of libero_90 .KITCHEN_SCENE10_close.* no scripted expert.* choose another suite"
    with pytest.raises(UserError, match=message):
        check_demonstrations(EnvConfig(task_suite="libero_90", task_ids=(0,)), DemonstrationConfig())


def test_more_demonstrations_than_starts_are_refused_before_anything_is_built():
    config = EnvConfig(task_suite="libero_goal", task_ids=(8,))
    with pytest.raises(UserError, match="episodes_per_task 201 is more than the 200 training starts"):
        check_demonstrations(config, DemonstrationConfig(episodes_per_task=201))


def test_published_demonstrations_take_the_place_of_the_experts(tmp_path):
    # A task without an expert: none is needed.
    config = EnvConfig(task_suite="libero_90", task_ids=(0,), image_size=8)
    name = load_task("libero_90", 0).name
    write_published(tmp_path / "from" / f"{name}_demo.hdf5", episodes=3)
    settings = DemonstrationConfig(episodes_per_task=2, source=str(tmp_path / "from"))
    summary = collect_demonstrations(config, settings, tmp_path / "to", lambda line: None)
    assert summary["0"]["successes"] == 2
    episodes = read_demonstrations(tmp_path / "to" / summary["0"]["file"])
    assert len(episodes) == 2 and episodes[0].instruction == load_task("libero_90", 0).instruction
    with pytest.raises(UserError, match="holds 3 demonstrations, 9 are wanted"):
        collect_demonstrations(config, replace(settings, episodes_per_task=9), tmp_path / "to", lambda line: None)
