from vlarl.evaluation.protocol import Evaluation, compare
from vlarl.types import EpisodeResult, Start


def make(successes, simulator):
    episodes = tuple(
        EpisodeResult(start=Start(task_id=0, split="evaluation", index=i), success=success, steps=9)
        for i, success in enumerate(successes)
    )
    return Evaluation(temperature=0.0, episodes=episodes, env_steps=9 * len(episodes), simulator=simulator)


def test_a_saved_evaluation_keeps_the_simulators_versions(tmp_path):
    evaluation = make([True, False], {"mujoco": "3.3.2"})
    evaluation.save(tmp_path / "a.json")
    assert Evaluation.load(tmp_path / "a.json") == evaluation
    assert evaluation.summary()["simulator"] == {"mujoco": "3.3.2"}


def test_comparison_says_whether_the_simulators_are_the_same():
    before = make([False, False], {"mujoco": "3.3.2"})
    assert compare(before, make([True, False], {"mujoco": "3.3.2"}))["same_simulator"]
    comparison = compare(before, make([True, False], {"mujoco": "3.4.0"}))
    assert not comparison["same_simulator"]
    assert comparison["points"] == 50.0


def test_comparison_counts_the_episodes_that_differ():
    assert compare(make([True, False], {}), make([False, True], {}))["differing_episodes"] == 2
    assert compare(make([True, False], {}), make([True, False], {}))["differing_episodes"] == 0
