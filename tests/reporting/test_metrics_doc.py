"""docs/metrics.md defines every logged metric, and none that is not logged."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [
    *(sys.executable, "-m", "vlarl", "train", "--recipe", "toy", "--ppo.num-iterations", "1", "--ppo.kl-coef", "0.1"),
    *("--ppo.rollout-batch-size", "16", "--ppo.minibatch-size", "16", "--ppo.microbatch-size", "16"),
    *("--evaluation.validation-interval", "1", "--evaluation.validation-episodes-per-task", "2"),
]


def documented() -> set[str]:
    text = (REPOSITORY / "docs/metrics.md").read_text()
    return set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> set[str]:
    """Names in the rows of a short toy run that uses every optional term, ids written as <task_id> and <i>."""
    output = tmp_path_factory.mktemp("metrics") / "run"
    subprocess.run([*COMMAND, "--output", str(output)], check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    names = {re.sub(r"/worker_\d+$", "/worker_<i>", name) for row in rows for name in row}
    return {re.sub(r"/\d+$", "/<task_id>", name) for name in names}


def other_metrics() -> set[str]:
    """Names of SFT's rows and of the critic-free algorithms, which that run has not: read from the source."""
    texts = {"step"}
    for module in ("training/supervised.py", "algorithms/critic_free.py"):
        nodes = ast.walk(ast.parse((REPOSITORY / "vlarl" / module).read_text()))
        texts |= {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return {text for text in texts if text == "step" or re.fullmatch(r"(losses|rollout)/\w+", text)}


def test_every_logged_metric_is_documented(logged):
    assert len(logged) > 25
    missing = (logged | other_metrics()) - documented()
    assert not missing, f"define {sorted(missing)} in docs/metrics.md"


def test_every_documented_metric_is_logged(logged):
    stale = documented() - logged - other_metrics()
    assert not stale, f"nothing logs {sorted(stale)}: remove them from docs/metrics.md"
