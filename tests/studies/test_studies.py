"""Studies: verdicts by hand, records that cannot be mixed, and a grid of real runs on the toy environment."""

import json
from dataclasses import replace

import numpy as np
import pytest

from vlarl.cli.study import BEGIN, END, main
from vlarl.errors import UserError
from vlarl.recipes import toy
from vlarl.reporting.progress import Console
from vlarl.reporting.study_page import claims_markdown, render_study, study_markdown
from vlarl.studies.analysis import FAILS, HOLDS, UNDECIDED, analyse, area_under_curve, judge
from vlarl.studies.base import Claim, Study, Variant
from vlarl.studies.process_reward import with_reward_model
from vlarl.studies.records import Record, check_comparable, fingerprint, load_record, save_record
from vlarl.studies.registry import STUDIES
from vlarl.studies.runner import run_study, study_jobs

STARTS = tuple((task, index) for task in (0, 1) for index in range(10))


def record(successes: int, seed: int = 0, **changes) -> Record:
    """A run that solves the first `successes` of 20 evaluation starts; SFT solved 4."""
    outcomes = {"sft_greedy": np.arange(20) < 4, "rl_greedy": np.arange(20) < successes}
    fields = {
        "fingerprint": f"{successes:04}{seed:04}", "config": {"seed": seed}, "packages": {"torch": "2.13.0"},
        "outcomes": outcomes, "starts": STARTS, "curve": ((100, 0.2), (400, successes / 20)), "warnings": (),
        "card": {"env_steps": 400, "core_hours": 0.5, "peak_rss_bytes": 2**30, "wall_seconds": 900.0},
    }  # fmt: skip
    return Record(**fields | changes)


CLAIM = Claim(text="a beats b", confidence="low", better="a", worse="b")
LIFT = Claim(text="RL helps in b", confidence="none", better="b", worse="b", metric="lift")
SMALL = Study(
    name="small",
    question="Does a beat b?",
    variants=(
        Variant(name="a", about="as it is"),
        Variant(name="b", about="hotter", change=lambda c: replace(c, ppo=replace(c.ppo, temperature=1.5))),
    ),
    claims=(CLAIM,),
)


def verdict(better: list[int], worse: list[int], claim: Claim = CLAIM) -> dict:
    records = {("a", s): record(n, s) for s, n in enumerate(better)}
    worse_ones = {("b", s): record(n, s, fingerprint=f"worse {s}") for s, n in enumerate(worse)}
    return judge(claim, range(len(better)), records | worse_ones)


def test_a_clear_difference_holds_and_its_reverse_does_not():
    found = verdict([18, 17, 19], [8, 9, 7])
    assert found["verdict"] == HOLDS and found["points"] == pytest.approx(50) and found["seeds"] == 3
    low, high = found["ci95"]
    # Of 60 paired starts 30 changed upwards: 0.5 +- 1.96 sqrt(0.25 / 60).
    assert low == pytest.approx(37.3, abs=1.5) and high == pytest.approx(62.7, abs=1.5)
    assert verdict([8, 9, 7], [18, 17, 19])["verdict"] == FAILS


def test_no_difference_fails_the_claim_and_a_small_one_leaves_it_open():
    assert verdict([12, 12], [12, 12])["verdict"] == FAILS
    assert verdict([13, 12], [12, 12])["verdict"] == UNDECIDED


def test_a_claim_about_curves_needs_two_seeds():
    claim = replace(CLAIM, metric="curve")
    # Curves: (100 x 0.2 + 300 x s) / 400.
    assert area_under_curve(record(10)) == pytest.approx(0.425)
    one = verdict([18], [8], claim)
    assert one["verdict"] == UNDECIDED and one["ci95"] is None and one["points"] == pytest.approx(37.5)
    # Differences 0.375 and 0.3: mean 0.3375, standard error 0.0375, t(0.975, 1) = 12.706.
    two = verdict([18, 16], [8, 8], claim)
    assert two["ci95"] == pytest.approx([100 * (0.3375 - 12.706 * 0.0375), 100 * (0.3375 + 12.706 * 0.0375)], abs=0.01)
    assert two["verdict"] == UNDECIDED
    assert verdict([18, 18], [8, 8], claim)["verdict"] == HOLDS


def test_a_lift_is_rl_minus_sft_in_the_same_conditions():
    """RL solves 14 of 20, SFT 4 of them: 50 points, whatever the other variant does."""
    result = judge(LIFT, [0, 1], {("b", 0): record(14), ("b", 1): record(14, 1), ("a", 0): record(20)})
    assert result["points"] == pytest.approx(50.0) and result["verdict"] == HOLDS and result["seeds"] == 2


def test_a_variant_that_crashes_has_lost():
    crashed = record(0, error="NaN", outcomes={}, starts=())
    records = {("a", 0): record(10), ("b", 0): crashed}
    assert judge(CLAIM, [0], records)["verdict"] == HOLDS
    assert judge(replace(CLAIM, better="b", worse="a"), [0], records)["verdict"] == UNDECIDED
    analysis = analyse(SMALL, [0, 1], records)
    assert analysis["crashed"] == [["b", 0, "NaN"]] and analysis["missing"] == [["a", 1], ["b", 1]]
    page = render_study(analysis, "vlarl study small")
    assert "crashed (NaN)" in page and "a, seed 1: not run yet" in page
    assert "| b: hotter | 1, 1 crashed | no run | no run | no run | no run | nothing |" in study_markdown(analysis, "x")
    assert "b crashed | 1 | holds |" in claims_markdown([analysis])


def test_the_page_draws_a_band_where_there_are_several_seeds():
    records = {("a", 0): record(10), ("a", 1): record(14, seed=1), ("b", 0): record(8)}
    page = render_study(analyse(SMALL, [0, 1], records), "vlarl study small")
    assert page.count('class="band') == 1 and page.count('class="line') == 2


def test_success_by_task_is_the_mean_over_the_seeds():
    """14 of 20 are all 10 of task 0 and 4 of task 1, 8 are 8 and none; of the last variant there is no run."""
    analysis = analyse(SMALL, [0, 1], {("a", 0): record(14), ("a", 1): record(8, seed=1)})
    assert analysis["variants"][0]["tasks"] == {0: pytest.approx(0.9), 1: pytest.approx(0.2)}
    assert "| after RL, greedy, by task | 0 | 1 |\n|---|---|---|\n| a | 90 % | 20 % |\n" in study_markdown(
        analysis, "x"
    )
    assert "<td>20\N{NO-BREAK SPACE}%</td>" in render_study(analysis, "x")


def test_the_page_shows_the_growth_of_a_long_training():
    curve = tuple((100 * (i + 1), min(0.9, 0.3 + 0.02 * i)) for i in range(40))
    config = {"seed": 0, "ppo": {"rollout_batch_size": 50, "critic_warmup_iterations": 0}}
    records = {("a", 0): record(18, config=config, curve=curve)}
    analysis = analyse(replace(SMALL, growing=("a", "b")), [0], records)
    assert [found["variant"] for found in analysis["growth"]] == ["a"]
    page, text = render_study(analysis, "vlarl study small"), study_markdown(analysis, "vlarl study small")
    assert 'id="growth-a"' in page and page.count('class="line') == 4 and page.count('class="point') == 6
    assert "Growth of `a`, seeds: 1; predicts best:" in text and "| logarithmic: s = a + b ln(1 + x) |" in text


def test_claims_name_variants_that_exist():
    with pytest.raises(UserError, match=r"unknown variant of the study bad 'c'.*Known: a, b"):
        replace(SMALL, name="bad", claims=(replace(CLAIM, better="c"),))
    with pytest.raises(UserError, match="unknown variant of the study bad 'long'"):
        replace(SMALL, name="bad", growing=("long",))


def test_a_record_is_read_as_it_was_written(tmp_path):
    written = record(7, seed=3, warnings=("entropy_collapse",))
    path = save_record(written, tmp_path)
    assert path.stat().st_size < 2000
    read = load_record(tmp_path, written.fingerprint)
    assert read is not None and load_record(tmp_path, "0" * 16) is None
    for name, value in vars(written).items():
        assert name == "outcomes" or getattr(read, name) == value
    assert all(np.array_equal(read.outcomes[name], written.outcomes[name]) for name in written.outcomes)
    path.write_text('{"fingerprint": "x"}')
    with pytest.raises(UserError, match="is no record of a run"):
        load_record(tmp_path, written.fingerprint)


def test_runs_that_cannot_be_compared_are_refused():
    with pytest.raises(UserError, match=r"other versions \(torch \(2.13.0 -> 2.14.0\)\)"):
        check_comparable([record(1), record(2, packages={"torch": "2.14.0"})])
    with pytest.raises(UserError, match="different starts .start 9 of task 1 is in one of them only"):
        check_comparable([record(1), record(2, starts=STARTS[:-1])])
    check_comparable([record(1), record(2, error="NaN", starts=())])
    twice = [
        record(1, policies="one"),
        record(2, policies="other", config={"seed": 0, "evaluated_in": {"shift": "mass=2"}}),
    ]
    with pytest.raises(UserError, match="one configuration that was trained twice"):
        check_comparable(twice)
    check_comparable([record(1, policies="one"), record(2, seed=1, policies="other")])


def test_the_fingerprint_names_what_decides_the_result():
    config = toy()
    assert fingerprint(config) == fingerprint(replace(config, keep_last=5, sinks=("jsonl",)))
    assert fingerprint(config) == fingerprint(replace(config, env=replace(config.env, num_workers=1)))
    assert fingerprint(config) != fingerprint(replace(config, seed=1))
    assert fingerprint(config) != fingerprint(replace(config, ppo=replace(config.ppo, gamma=0.9)))


@pytest.mark.parametrize("name", STUDIES)
def test_studies_resolve_for_the_quickstart(name):
    jobs = study_jobs(STUDIES[name], "quickstart", [0, 1], iterations=3)
    assert len(jobs) == 2 * len(STUDIES[name].variants)
    assert len({fingerprint(job.config, job.env) for job in jobs.values()}) == len(jobs)
    # The same budget; how far a larger one goes is what scaling asks, and SFT alone has none.
    lengths = {job.config.ppo.total_iterations for job in jobs.values()}
    assert name == "scaling" or lengths in ({4}, {4, 0})


def test_libero_40_compares_methods_on_the_same_suites():
    jobs = study_jobs(STUDIES["libero-40"], "quickstart", [0], iterations=18)
    rl, more, many = (jobs[name, 0].config for name in ("rl goal", "sft-more goal", "sft-50 goal"))
    assert rl.env.task_suite == "libero_goal" and rl.env.task_ids == tuple(range(10))
    # 18 + 1 iterations of 200 steps' time each, with episodes of up to 300 env steps in the place of 136.
    assert more.sft.num_steps == rl.sft.num_steps + round(3800 * 300 / 136) and more.ppo.total_iterations == 0
    assert many.sft.num_steps == more.sft.num_steps
    assert (rl.demonstrations.episodes_per_task, many.demonstrations.episodes_per_task) == (10, 50)
    rejection = jobs["rejection goal", 0].config
    assert rejection.algorithm == "rejection" and rejection.ppo.total_iterations == rl.ppo.total_iterations
    assert rejection.sft == rl.sft and rejection.demonstrations == rl.demonstrations
    larger = study_jobs(STUDIES["libero-40"], "openvla_7b_libero_goal", [0], iterations=7)
    large = larger["rl spatial", 0].config
    assert large.policy.checkpoint.endswith("libero-spatial") and large.env.task_suite == "libero_spatial"
    assert large.ppo.num_iterations == 7 and large.demonstrations.episodes_per_task == 0
    # The published fine-tune is SFT on 50 demonstrations; more of it needs demonstrations.
    assert larger["sft-50 spatial", 0].config.demonstrations.episodes_per_task == 0
    assert larger["sft-more spatial", 0].config.demonstrations.episodes_per_task == 50


def test_a_claim_about_several_variants_weighs_them_alike():
    """Mean of +50 and +10 points; a seed without all of them does not count."""
    claim = Claim(text="x beats y", confidence="none", better=("x a", "x b"), worse=("y a", "y b"))
    records = {("x a", 0): record(14), ("y a", 0): record(4), ("x b", 0): record(12), ("y b", 0): record(10)}
    found = judge(claim, [0, 1], records | {("x a", 1): record(20), ("y a", 1): record(0)})
    assert found["points"] == pytest.approx(30) and found["seeds"] == 1 and found["verdict"] == HOLDS
    assert (found["better"], found["worse"]) == ("x (2)", "y (2)")
    assert judge(claim, [1], records)["verdict"] == UNDECIDED
    # A seed with a crash among them counts as crashed, and only against the side that crashed.
    crash = record(0, error="NaN", outcomes={}, starts=())
    for broken, verdict_then in (("y b", HOLDS), ("x b", UNDECIDED)):
        found = judge(claim, [0], records | {(broken, 0): crash})
        assert found["points"] is None and found["verdict"] == verdict_then


def test_two_variants_that_come_to_the_same_run_decide_nothing():
    same = record(12)
    found = judge(CLAIM, [0], {("a", 0): same, ("b", 0): same})
    assert found["verdict"] == UNDECIDED and found["points"] == 0


def test_a_variant_without_rl_is_evaluated_as_sft_left_it(tmp_path, monkeypatch):
    def sft_alone(config):
        return replace(config, ppo=replace(config.ppo, num_iterations=0))

    study = replace(SMALL, variants=(SMALL.variants[0], Variant(name="b", about="SFT alone", change=sft_alone)))
    monkeypatch.setattr("vlarl.studies.runner.make_recipe", tiny_toy)
    records = run_study(study_jobs(study, "toy", [0]), tmp_path / "runs", tmp_path / "results", Console(quiet=True))
    alone = records["b", 0]
    assert alone.curve == () and np.array_equal(alone.outcomes["rl_greedy"], alone.outcomes["sft_greedy"])
    assert alone.card["env_steps"] == 0
    # The same policy is not evaluated twice.
    ledger = json.loads((tmp_path / "runs" / "runs" / alone.fingerprint / "phases.json").read_text())
    assert "evaluate_rl" not in ledger["seconds"]
    text = study_markdown(analyse(study, [0], records), "vlarl study small")
    assert "b: SFT alone | 1 |" in text and "| SFT alone | nothing |" in text


def test_scaling_spends_the_recipes_compute_on_other_epochs():
    """Of 15 iterations of 0.63 + 2 x 0.18: 18 with one epoch, 11 with four; the long ones have four times 15."""
    jobs = study_jobs(STUDIES["scaling"], "quickstart", [0], iterations=15)
    lengths = {variant: job.config.ppo.num_iterations for (variant, _), job in jobs.items()}
    assert lengths == {"full": 15, "long": 60, "long-small": 60, "epochs-1": 18, "epochs-4": 11}
    small = jobs["long-small", 0].config.policy
    assert small.hidden_size == 64 and small.vision_channels == (16, 32, 48, 64)
    # 7B: fewer adapters of the same scale.
    adapters = study_jobs(STUDIES["scaling"], "openvla_7b_libero_spatial", [0])["long-small", 0].config.policy.lora
    assert (adapters.rank, adapters.alpha) == (8, 4)
    assert not jobs["long", 0].config.ppo.anneal_lr and jobs["long", 0].config.curriculum.strategy == "uniform"


def tiny_toy(_: str):
    config = toy()
    ppo = replace(config.ppo, num_iterations=1, rollout_batch_size=4, minibatch_size=8, microbatch_size=8)
    evaluation = replace(config.evaluation, episodes_per_task=2, probe_episodes_per_task=1, validation_interval=0)
    return replace(config, env=replace(config.env, num_envs=4, num_workers=1), ppo=ppo, evaluation=evaluation)


def test_a_grid_of_runs_shares_sft_and_runs_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("vlarl.studies.runner.make_recipe", tiny_toy)
    jobs = study_jobs(SMALL, "toy", [0])
    records = run_study(jobs, tmp_path / "runs", tmp_path / "results", Console(quiet=True))
    assert len(list((tmp_path / "results").glob("*.json"))) == 2
    assert len(list((tmp_path / "runs" / "sft").iterdir())) == 1
    for found in records.values():
        assert found.outcomes["rl_greedy"].shape == (4,) and len(found.curve) == 2 and found.card["env_steps"] > 0
    assert records["b", 0].config["ppo"]["temperature"] == 1.5
    # From the records alone, on any machine.
    monkeypatch.setattr("vlarl.studies.runner.run_one", lambda *_: pytest.fail("ran a finished run again"))
    again = run_study(jobs, tmp_path / "elsewhere", tmp_path / "results", Console(quiet=True))
    assert analyse(SMALL, [0], again) == analyse(SMALL, [0], records)


def test_a_run_is_evaluated_elsewhere_without_being_trained_again(tmp_path, monkeypatch):
    elsewhere = Variant(name="b", about="twice the turns", evaluated_in=lambda env: replace(env, replan_steps=1))
    study = replace(SMALL, variants=(SMALL.variants[0], elsewhere), claims=(LIFT,))
    monkeypatch.setattr("vlarl.studies.runner.make_recipe", tiny_toy)
    records = run_study(study_jobs(study, "toy", [0]), tmp_path / "runs", tmp_path / "results", Console(quiet=True))
    there, here = records["b", 0], records["a", 0]
    assert len(list((tmp_path / "runs" / "runs").iterdir())) == 1
    assert there.fingerprint != here.fingerprint and there.policies == here.policies != ""
    # The training counts once.
    assert there.curve == () and there.card["env_steps"] != here.card["env_steps"] > 0
    assert there.card["wall_seconds"] < here.card["wall_seconds"]
    assert there.config["evaluated_in"]["replan_steps"] == 1 and "evaluated_in" not in here.config
    files = {path.name for path in tmp_path.glob("runs/runs/*/evaluations/*.json")}
    assert {f"{stage}_greedy_in_{there.fingerprint}.json" for stage in ("sft", "rl")} < files
    assert "b, RL minus SFT" in claims_markdown([analyse(study, [0], records)])
    assert "| that of its training |" in study_markdown(analyse(study, [0], records), "vlarl study small")


def test_a_crashed_training_is_not_repeated_for_every_environment(tmp_path, monkeypatch):
    elsewhere = Variant(name="b", about="twice the turns", evaluated_in=lambda env: replace(env, replan_steps=1))
    study = replace(SMALL, variants=(SMALL.variants[0], elsewhere), claims=(LIFT,))
    monkeypatch.setattr("vlarl.studies.runner.make_recipe", tiny_toy)
    jobs = study_jobs(study, "toy", [0])
    crashed = record(0, error="NaN", outcomes={}, starts=(), fingerprint=fingerprint(jobs["a", 0].config))
    save_record(crashed, tmp_path / "results")
    monkeypatch.setattr("vlarl.studies.runner.run_one", lambda *_: pytest.fail("trained again"))
    records = run_study(jobs, tmp_path / "runs", tmp_path / "results", Console(quiet=True))
    assert records["b", 0].error == "NaN"
    assert "b, RL minus SFT | crashed | 1 |" in claims_markdown([analyse(study, [0], records)])


def test_a_study_of_one_environment_refuses_others():
    with pytest.raises(UserError, match="the study robustness needs libero, the recipe toy trains on toy: choose"):
        study_jobs(STUDIES["robustness"], "toy", [0])


def test_a_crashed_run_is_recorded_and_the_rest_goes_on(tmp_path, monkeypatch):
    from vlarl.errors import NonFiniteError
    from vlarl.training.run import Run

    train = Run.train

    def crash(run: Run) -> None:
        train(run)
        if run.config.ppo.temperature == 1.5:
            raise NonFiniteError("the loss is NaN")

    monkeypatch.setattr("vlarl.studies.runner.make_recipe", tiny_toy)
    monkeypatch.setattr(Run, "train", crash)
    records = run_study(study_jobs(SMALL, "toy", [0]), tmp_path / "runs", tmp_path / "results", Console(quiet=True))
    assert records["b", 0].error == "the loss is NaN" and records["a", 0].error is None


def test_a_reward_model_is_trained_once_and_named_by_its_labeller(tmp_path, monkeypatch):
    config = study_jobs(STUDIES["process-reward"], "quickstart", [0])["gripper", 0].config
    assert config.process_reward.model == "study:gripper" and config.env.task_ids == (3, 5, 7, 8)
    calls = []

    def collect(env, demonstrations, folder, progress):
        calls.append(("demonstrations", demonstrations.seed, env.max_episode_steps))
        (folder / "demo.hdf5").touch()

    def train(folder, reward, log):
        calls.append(("model", reward.labels.labeller, reward.data[0].endswith("_demos"), reward.model.image_size))

    def evaluate(folder, turn_steps):
        folder.root.mkdir(parents=True)
        folder.figures.write_text("{}")

    monkeypatch.setattr("vlarl.experts.demonstrations.collect_demonstrations", collect)
    monkeypatch.setattr("vlarl.training.reward_run.train_and_save", train)
    monkeypatch.setattr("vlarl.training.reward_run.evaluate_reward_model", evaluate)
    for _ in range(2):
        resolved = with_reward_model(config, tmp_path, Console(quiet=True))
        assert resolved.process_reward.model == str(tmp_path / "reward" / "libero_goal_3_5_7_8_gripper" / "model")
    assert (tmp_path / "reward" / "libero_goal_3_5_7_8_demos" / "demo.hdf5").is_file()
    assert calls == [("demonstrations", 1, None), ("model", "gripper", True, 64)]
    sparse = study_jobs(STUDIES["process-reward"], "quickstart", [0])["sparse", 0].config
    assert with_reward_model(sparse, tmp_path, Console(quiet=True)) is sparse


def test_publish_writes_between_the_markers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vlarl.studies.runner.make_recipe", tiny_toy)
    monkeypatch.setattr("vlarl.cli.study.STUDIES", {"small": SMALL})
    results, document = tmp_path / "results", tmp_path / "results.md"
    arguments = ["--publish", "--seeds", "1", "--results", str(results), "--document", str(document)]
    document.write_text("# Results\n")
    with pytest.raises(UserError, match="lacks the lines"):
        main("study", arguments)
    run_study(study_jobs(SMALL, "toy", [0]), tmp_path / "runs", results, Console(quiet=True))
    document.write_text(f"# Results\n{BEGIN}\nstale\n{END}\nrest\n")
    assert main("study", arguments) == 0
    text = document.read_text()
    assert text.startswith("# Results\n") and text.endswith("rest\n") and "stale" not in text
    assert "| a beats b | low | small: a minus b |" in text and "vlarl study small --seeds 1" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablation"], "Did you mean 'ablations'"),
        (["ablations", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["scaling", "--iterations", "0"], "--iterations must be at least 1, got 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(UserError, match=message):
        main("study", arguments)


def test_a_table_without_runs_says_what_is_missing(tmp_path, capsys):
    places = ["--results", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main("study", ["algorithms", "--seeds", "1", "--table", *places]) == 0
    out = capsys.readouterr().out
    assert "Not run yet: full seed 0; grpo seed 0; rloo seed 0." in out and "undecided" in out
    assert "no runs" in (tmp_path / "out" / "algorithms.html").read_text()
