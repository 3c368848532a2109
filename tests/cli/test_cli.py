"""The command line as a shell sees it: exit codes, messages that name the bad value and the fix, JSON."""

import json
import os
import subprocess
import sys

import pytest

from tests.tiny import make_policy
from vlarl.cli.main import main
from vlarl.cli.options import parse_run_options
from vlarl.policies.checkpoint import save_policy
from vlarl.training.run_folder import RunFolder


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    output = capsys.readouterr()
    return stopped.value.code or 0, output.out, output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--recipe", "quickstrat"], "Did you mean 'quickstart'"),
        (["quickstart", "--task-suite", "libero_gaol"], "Did you mean 'libero_goal'"),
        (["quickstart", "--task-suite", "libero_10"], "name the tasks: --task-ids"),
        (["quickstart", "--task-ids", "3", "99"], "has no task 99"),
        (["demos", "--task-suite", "libero_gaol"], "Did you mean 'libero_goal'"),
        (["demos", "--episodes", "-1"], "must be 0 or more"),
        (["demos", "--demonstrations.action-noise", "2"], "action_noise must be in [0, 1]"),
        (["demos", "--env.render-gpus", "-1"], "names GPU -1"),
        (["quickstart", "--task-ids", "1", "1"], "repeats a task"),
        (["train", "--recipe", "toy", "--ppo.minibatch-size", "100000"], "is larger than the rollout can be"),
        (["train", "--recipe", "toy", "--ppo.microbatch-size", "65"], "is larger than ppo.minibatch_size"),
        (["train", "--recipe", "toy", "--env.num-workers", "17"], "is larger than env.num_envs"),
        (["train", "--recipe", "toy", "--ppo.temperature", "0"], "ppo.temperature must be positive"),
        (["train", "--recipe", "toy", "--policy.image-size", "12"], "env.image_size 16 differ"),
        (["train", "--recipe", "toy", "--policy.hidden-size", "30", "--policy.num-heads", "4"], "is not a multiple of"),
        (["train", "--recipe", "toy", "--sinks", "jsonl", "tensorbord"], "Did you mean 'tensorboard'"),
        (["train", "--recipe", "toy", "--reward", "sucess"], "Did you mean 'success'"),
        (["train", "--recipe", "toy", "--minutes", "-1"], "--minutes must be positive"),
        (["quickstart", "--seed", "-1"], "seed must be from 0 to 4294967295, got -1"),
        (["quickstart", "--task-suite", "libero_90", "--task-ids", "0"], "has no scripted expert"),
        (["train", "--recipe", "toy", "--env.seed", "-1"], "env.seed must be from 0"),
        (
            ["train", "--recipe", "toy", "--ppo.entropy-coef", "nan"],
            "ppo.entropy_coef must be a finite number",
        ),
        (["train", "--recipe", "toy", "--ppo.learning-rate", "inf"], "ppo.learning_rate must be a finite number"),
        (["train", "--recipe", "toy", "--ppo.adam-betas", "2", "0.9"], "ppo.adam_betas must be in [0, 1)"),
        (["train", "--recipe", "toy", "--ppo.clip-ratio-high", "0"], "ppo.clip_ratio_high must be positive"),
        (["train", "--recipe", "toy", "--ppo.target-kl", "-1"], "ppo.target_kl must be positive, got -1.0"),
        (["train", "--recipe", "toy", "--sft.crop-pixels", "-1"], "sft.crop_pixels must be 0 or more, got -1"),
        (["train", "--recipe", "toy", "--policy.vision-channels"], "policy.vision_channels must be one or more sizes"),
        (["train", "--recipe", "toy", "--policy.num-bins", "1"], "policy.num_bins must be at least 2"),
        (["train", "--recipe", "toy", "--keep-last", "0"], "keep_last must be at least 1, got 0"),
        (["train", "--recipe", "toy", "--sinks"], "lacks jsonl"),
        (["train", "--recipe", "toy", "--evaluation.validation-episodes-per-task", "101"], "than the 100 validation"),
        (["train", "--recipe", "quickstart", "--evaluation.episodes-per-task", "51"], "than the 50 evaluation starts"),
        (["train", "--recipe", "quickstart", "--demonstrations.episodes-per-task", "201"], "than the 200 training"),
        (["train", "--recipe", "toy", "--demonstrations.episodes-per-task", "1"], "'libero' only, not for 'toy'"),
        (["demos", "--recipe", "toy"], "there is nothing to collect"),
        (["evaluate", "--policy", "nowhere"], "no policy at nowhere"),
        (["evaluate", "--policy", "nowhere", "--episodes", "0"], "must be at least 1"),
        (["report", "nowhere"], "nowhere"),
        (["recipes", "tyo"], "Did you mean 'toy'"),
    ],
)
def test_bad_input_exits_with_2_and_says_what_to_do(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors
    # Nothing is left behind that would be in the way of the corrected command.
    assert not list(tmp_path.rglob("*.json*"))


@pytest.mark.parametrize(("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5")])
def test_waiting_threads_spin_for_a_moment(given, expected):
    code = "import os, vlarl.cli.main; print(os.environ.get('GOMP_SPINCOUNT'))"
    for policy, found in ({}, expected), ({"OMP_WAIT_POLICY": "ACTIVE"}, given.get("GOMP_SPINCOUNT", "None")):
        environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | given | policy, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == found


def test_short_options_of_the_phases():
    options = parse_run_options(["--task-suite", "libero_10", "--episodes", "50"], "demos", "")
    env = options.config.env
    assert (env.task_suite, env.task_ids, env.max_episode_steps) == ("libero_10", tuple(range(10)), None)
    assert options.config.demonstrations.episodes_per_task == 50
    # The recipe's own suite keeps the recipe's tasks and limit.
    plain = parse_run_options([], "demos", "").config
    assert parse_run_options(["--task-suite", plain.env.task_suite], "demos", "").config == plain
    line = ["--task-suite", "libero_object", "--task-ids", "3", "--env.max-episode-steps", "99"]
    env = parse_run_options(line, "train", "").config.env
    assert (env.task_suite, env.task_ids, env.max_episode_steps) == ("libero_object", (3,), 99)


def test_unknown_flag_suggests_the_nearest(capsys):
    code, out, errors = run(capsys, "train", "--recipe", "toy", "--ppo.learning-rat", "1e-3")
    assert code == 2
    assert "--ppo.learning-rate" in out + errors


def test_help_has_units_and_defaults(capsys):
    code, out, _ = run(capsys, "quickstart", "--help")
    assert code == 0
    assert "minutes" in out and "runs/quickstart" in out


def test_overview_lists_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("quickstart", "demos", "sft", "train", "evaluate", "report", "recipes", "doctor"):
        assert command in out


def test_recipe_is_printed_resolved(capsys):
    code, out, _ = run(capsys, "recipes", "toy")
    assert code == 0
    assert json.loads(out)["ppo"]["rollout_batch_size"] == 64


def test_a_foreign_folder_is_left_alone(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _, errors = run(capsys, "train", "--recipe", "toy", "--output", str(tmp_path))
    assert code == 2
    assert "is not empty and holds no run" in errors
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_damaged_files_are_named(capsys, tmp_path):
    folder = RunFolder(tmp_path)
    folder.config.write_text("{")
    code, _, errors = run(capsys, "train", "--recipe", "toy", "--output", str(tmp_path))
    assert code == 2
    assert "config.json is damaged" in errors
    # Without it the folder is nobody's: deleting it would not help.
    assert "choose another --output" in errors


def test_an_output_that_cannot_be_a_folder(capsys, tmp_path, monkeypatch):
    occupied = tmp_path / "notes.txt"
    occupied.write_text("mine")
    code, _, errors = run(capsys, "train", "--recipe", "toy", "--output", str(occupied))
    assert (code, "is a file, not a folder" in errors) == (2, True)

    def refuse(path, value):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vlarl.training.run_folder.write_json", refuse)
    code, _, errors = run(capsys, "train", "--recipe", "toy", "--output", str(tmp_path / "run"))
    assert (code, "run (Permission denied): choose another --output" in errors) == (2, True)


def test_bad_input_is_found_before_the_doctor_looks(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("vlarl.cli.quickstart.run_checks", lambda: pytest.fail("the doctor was called first"))
    code, _, errors = run(capsys, "quickstart", "--minutes", "0", "--output", str(tmp_path / "run"))
    assert (code, "--minutes must be positive" in errors) == (2, True)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"episodes": [[1, 2]], "temperature": 0, "env_steps": 1}'])
def test_comparison_with_a_file_that_is_no_evaluation(capsys, tmp_path, content):
    save_policy(make_policy(), tmp_path / "policy")
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    code, _, errors = run(capsys, "evaluate", "--policy", str(tmp_path / "policy"), "--compare", str(path))
    assert code == 2
    assert "other.json" in errors and "Traceback" not in errors
