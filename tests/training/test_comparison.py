"""`vlarl compare`: paired comparison of run folders."""

import json

import pytest

from vlarl.cli.compare import main
from vlarl.errors import UserError
from vlarl.evaluation.protocol import Evaluation
from vlarl.reporting.sinks import JsonlSink
from vlarl.training.comparison import compare_runs
from vlarl.training.run_folder import RunFolder, write_json
from vlarl.types import EpisodeResult, Start


def evaluation(outcomes: str, *, temperature: float = 0.0, first: int = 0) -> Evaluation:
    """One episode per character: + succeeds, - fails."""
    episodes = tuple(
        EpisodeResult(start=Start(task_id=1, split="evaluation", index=first + i), success=c == "+", steps=100)
        for i, c in enumerate(outcomes)
    )
    return Evaluation(temperature=temperature, episodes=episodes, env_steps=1000, simulator={"mujoco": "3.3.2"})


def make_run(root, outcomes: str, *, learning_rate: float = 1e-4, suite: str = "libero_goal", **keywords) -> RunFolder:
    folder = RunFolder(root)
    config = {"recipe": "quickstart", "seed": 0, "env": {"task_suite": suite}, "ppo": {"learning_rate": learning_rate}}
    write_json(folder.config, config)
    evaluation(outcomes, **keywords).save(folder.evaluation("rl_greedy"))
    return folder


def test_differences_are_paired_with_the_first_run(tmp_path):
    a = make_run(tmp_path / "a", "+++---------")
    b = make_run(tmp_path / "b", "++-+++++++--", learning_rate=2e-4)
    runs = compare_runs([a, b])["runs"]
    assert runs[0]["evaluations"]["rl_greedy"]["successes"] == 3
    assert "difference" not in runs[0]["evaluations"]["rl_greedy"]
    difference = runs[1]["evaluations"]["rl_greedy"]["difference"]
    # 9 - 3 of 12; 7 up, 1 down: p = 2 * (1 + 8) / 2^8.
    assert difference["points"] == pytest.approx(50)
    assert difference["p_value"] == pytest.approx(18 / 256)
    assert runs[1]["differs"] == ["ppo.learning_rate (0.0001 -> 0.0002)"]


def test_other_starts_temperatures_and_suites_are_refused(tmp_path):
    a = make_run(tmp_path / "a", "++--")
    with pytest.raises(UserError, match="evaluation start 0 of task 1 is in one of them only"):
        compare_runs([a, make_run(tmp_path / "starts", "++--", first=1)])
    with pytest.raises(UserError, match=r"temperatures differ \(0 in .*, 0.8 in"):
        compare_runs([a, make_run(tmp_path / "hot", "++--", temperature=0.8)])
    with pytest.raises(UserError, match="is of libero_goal, .* of libero_10"):
        compare_runs([a, make_run(tmp_path / "suite", "++--", suite="libero_10")])


def test_folders_that_cannot_be_compared(tmp_path):
    a = make_run(tmp_path / "a", "++--")
    with pytest.raises(UserError, match="at least two"):
        compare_runs([a])
    empty = RunFolder(tmp_path / "empty")
    write_json(empty.config, json.loads(a.config.read_text()))
    with pytest.raises(UserError, match="empty holds no evaluation"):
        compare_runs([a, empty])
    with pytest.raises(UserError, match="does not exist"):
        compare_runs([a, RunFolder(tmp_path / "nowhere")])


def test_command_prints_a_table_and_writes_a_page(tmp_path, capsys):
    folders = [make_run(tmp_path / name, outcomes) for name, outcomes in (("a", "+---"), ("b", "+++-"))]
    for folder in folders:
        sink = JsonlSink(folder.metrics)
        for step, rate in enumerate((0.25, 0.5)):
            sink.log({"env_steps": 100 * step, "charts/success_rate": rate}, step)
        sink.close()
    page = tmp_path / "page.html"
    assert main("compare", [*(str(folder.root) for folder in folders), "--output", str(page)]) == 0
    printed = capsys.readouterr().out
    assert "1/4  25.0%" in printed
    assert "+50.0 points" in printed
    assert f"{folders[1].root} differs in nothing" in printed
    html = page.read_text()
    assert html.count("<path") == 2
    assert "+50" in html
    assert main("compare", [*(str(folder.root) for folder in folders), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][1]["evaluations"]["rl_greedy"]["difference"]["points"] == 50
