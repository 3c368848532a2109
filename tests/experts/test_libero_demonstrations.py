"""Demonstrations on the real simulator: two goals in one scene."""

import multiprocessing

import numpy as np
import pytest

from vlarl.configs.env import EnvConfig
from vlarl.configs.training import DemonstrationConfig
from vlarl.data.libero_hdf5 import read_demonstrations
from vlarl.envs.base import environment_module
from vlarl.errors import UserError
from vlarl.experts.demonstrations import collect_demonstrations
from vlarl.types import Start

pytestmark = pytest.mark.libero

CONFIG = EnvConfig(task_suite="libero_goal", task_ids=(8, 1), num_envs=2, num_workers=2)
DEMONSTRATIONS = DemonstrationConfig(episodes_per_task=2, recovery_probability=0.5)


def collect(folder, num_workers, progress=lambda line: None):
    config = EnvConfig(task_suite="libero_goal", task_ids=(8, 1), num_envs=2, num_workers=num_workers)
    summary = collect_demonstrations(config, DEMONSTRATIONS, folder, progress)
    return summary, {task: read_demonstrations(folder / entry["file"]) for task, entry in summary.items()}


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    return collect(tmp_path_factory.mktemp("demos"), num_workers=2)


def test_experts_solve_both_goals(collected):
    summary, episodes = collected
    assert list(summary) == ["8", "1"]
    assert [entry["successes"] for entry in summary.values()] == [2, 2]
    assert all(entry["attempts"] <= 3 for entry in summary.values())
    for task, instruction in (("8", "plate"), ("1", "stove")):
        for episode in episodes[task]:
            steps = len(episode.actions)
            assert episode.success and instruction in episode.instruction
            assert 60 <= steps <= 130
            assert episode.images.shape == (steps, 64, 64, 3)
            # The arm moves: hardly two images are the same.
            assert len({image.tobytes() for image in episode.images}) > steps // 2


def test_actions_replayed_from_the_start_give_the_same_states(collected):
    _, episodes = collected
    slot = environment_module("libero").make_environments(CONFIG, 1)[0]
    for episode in (episodes["8"][0], episodes["1"][1]):
        slot.reset(episode.start)
        for index, action in enumerate(episode.actions):
            np.testing.assert_array_equal(slot.state(), episode.states[index])
            success = slot.step_once(action)
        assert success


def test_result_does_not_depend_on_the_number_of_processes(collected, tmp_path):
    summary, episodes = collected
    other_summary, other_episodes = collect(tmp_path, num_workers=1)
    assert other_summary == summary
    for task, group in episodes.items():
        for left, right in zip(group, other_episodes[task], strict=True):
            assert left.start == right.start
            np.testing.assert_array_equal(left.actions, right.actions)
            np.testing.assert_array_equal(left.states, right.states)


def test_a_killed_process_starts_again_and_changes_nothing(collected, tmp_path):
    lines = []

    def kill_once(line):
        if not lines:
            multiprocessing.active_children()[0].kill()
        lines.append(line)

    summary, episodes = collected
    other_summary, other_episodes = collect(tmp_path, num_workers=2, progress=kill_once)
    assert sum("ended with code -9: its unfinished tasks are collected again" in line for line in lines) == 1
    assert other_summary == summary
    for task, group in episodes.items():
        for left, right in zip(group, other_episodes[task], strict=True):
            np.testing.assert_array_equal(left.states, right.states)


def test_a_process_that_is_killed_again_and_again_is_one_clear_error(tmp_path):
    def kill(line):
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(UserError, match=r"ended with code -9 .*times in all: free memory"):
        collect(tmp_path, num_workers=2, progress=kill)
    assert not multiprocessing.active_children()
    assert not list(tmp_path.glob("*.tmp"))


def test_starts_are_training_starts(collected):
    _, episodes = collected
    starts = [e.start for group in episodes.values() for e in group]
    assert len(set(starts)) == len(starts)
    assert {start.split for start in starts} == {"train"}
    assert all(isinstance(start, Start) for start in starts)
