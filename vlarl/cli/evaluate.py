"""`vlarl evaluate`: success of a policy folder on fixed starts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vlarl.cli.options import parse, print_json
from vlarl.configs.env import EnvConfig, RenderProfile, Stepping
from vlarl.envs.base import make_spec
from vlarl.errors import UserError
from vlarl.evaluation.failures import count_failures
from vlarl.evaluation.protocol import Evaluation, compare
from vlarl.policies.checkpoint import load_policy
from vlarl.policies.registry import AnyPolicyConfig
from vlarl.recipes import openvla_env, quickstart
from vlarl.reporting.progress import Console
from vlarl.training.failures import classify_failures, require_traces
from vlarl.training.policy_evaluation import evaluate_policy
from vlarl.training.run_folder import load_env_config


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Evaluates a policy under the suite's protocol limit, with Wilson 95 % intervals."""

    policy: Path
    """Policy folder, for example RUN/rl/policy, tasks and environment default to those of RUN; or an OpenVLA checkpoint
    in the published layout, which is evaluated under OpenVLA's protocol."""
    unnorm_key: str = ""
    """For a published checkpoint: the data set whose action statistics apply; default: the only one there is."""
    task_suite: str | None = None
    """Task suite; default: the run's, else the quickstart's."""
    task_ids: tuple[int, ...] | None = None
    """Tasks of the suite; default: the run's, else the quickstart's."""
    episodes: int = 50
    """Starts per task."""
    split: Literal["evaluation", "validation"] = "evaluation"
    """Starts: evaluation for figures, validation for choices."""
    temperature: float = 0.0
    """Sampling temperature; 0 decodes greedily."""
    num_envs: int | None = None
    """Environment slots; default: the run's. Outcomes do not depend on it."""
    num_workers: int | None = None
    """Worker processes; default: the run's. Outcomes do not depend on it."""
    stepping: Stepping | None = None
    """LIBERO's physics, exact or fast; default: the run's."""
    render_profile: RenderProfile | None = None
    """LIBERO's frames, reference or fast; default: the run's."""
    shift: str | None = None
    """A physical difference from the run's LIBERO, KIND=STRENGTH: camera=0.05 (metres to its right), light=0.5,
    friction=0.5, mass=2 (factors) or delay=2 (env steps)."""
    output: Path | None = None
    """File for every episode's outcome, JSON."""
    compare: Path | None = None
    """Such a file of another policy: prints the paired comparison (this policy minus that one)."""
    failures: bool = False
    """Replay the failed episodes and count them by segment of the task (`vlarl report RUN --failures` adds videos)."""
    expect: float | None = None
    """Published success rate, percent: says whether ours agrees (is the figure in our 95 % interval?)."""
    json: bool = False
    """Print the result as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Evaluates and prints."""
    options = parse(EvaluateOptions, argv, command)
    if options.episodes < 1:
        raise UserError(f"--episodes must be at least 1, got {options.episodes}")
    if options.temperature < 0:
        raise UserError(f"--temperature cannot be negative, got {options.temperature}")
    if options.expect is not None and not 0 <= options.expect <= 100:
        raise UserError(f"--expect is a success rate in percent, 0 to 100, got {options.expect}")
    policy = load_policy(options.policy, unnorm_key=options.unnorm_key)
    other = Evaluation.load(options.compare) if options.compare else None
    config = _env_config(options, policy.config)
    if options.failures:
        require_traces(config.name)
    instructions = make_spec(config).instructions
    console = Console()
    result, actions = evaluate_policy(
        policy,
        config,
        console,
        label=f"evaluation of {options.policy}",
        episodes_per_task=options.episodes,
        split=options.split,
        temperature=options.temperature,
    )
    if options.output:
        result.save(options.output)
    summary: dict[str, Any] = {"task_suite": config.task_suite, "shift": config.shift} | result.summary()
    if options.failures:
        kinds = classify_failures(config, result, actions, console)
        summary["failures"] = count_failures(kinds.values())
    if other is not None:
        summary["comparison"] = compare(other, result)
    if options.expect is not None:
        summary["expected"] = compare_with_published(summary, options.expect)
    if options.json:
        print_json(summary)
    else:
        print("\n".join(_table(summary, {t: instructions[t] for t in config.task_ids})))
    return 0


def compare_with_published(summary: dict[str, Any], percent: float) -> dict[str, Any]:
    """JSON-able verdict on a published success rate: ours agrees (it lies in our 95 % interval), is below or above."""
    low, high = (100 * bound for bound in summary["ci95"])
    verdict = "agrees" if low <= percent <= high else ("below" if high < percent else "above")
    return {"percent": percent, "points": 100 * summary["success_rate"] - percent, "verdict": verdict}


def _env_config(options: EvaluateOptions, policy: AnyPolicyConfig) -> EnvConfig:
    """The environment of the run that the policy lies in, else its kind's, with the options applied."""
    config = load_env_config(options.policy) or _default_env(options, policy)
    changes = {
        name: value
        for name in ("task_suite", "task_ids", "num_envs", "num_workers", "stepping", "render_profile", "shift")
        if (value := getattr(options, name)) is not None
    }
    return replace(config, **changes)


def _default_env(options: EvaluateOptions, policy: AnyPolicyConfig) -> EnvConfig:
    if policy.kind == "openvla":
        return replace(openvla_env(options.task_suite or "libero_spatial"), num_envs=2, num_workers=2)
    return quickstart(task_suite=options.task_suite, task_ids=options.task_ids).env


def _table(summary: dict[str, Any], instructions: dict[int, str]) -> list[str]:
    def line(label: str, value: dict[str, Any]) -> str:
        low, high = value["ci95"]
        counts = f"{value['successes']}/{value['episodes']}"
        return f"{label:<60} {counts:>8} {value['success_rate']:7.1%}   {low:.1%} to {high:.1%}"

    lines = [f"{'task':<60} {'success':>8} {'rate':>7}   95 % interval"]
    lines += [line(f"{t} {text}"[:60], summary["per_task"][str(t)]) for t, text in sorted(instructions.items())]
    lines.append(line(summary["task_suite"] + (f", {summary['shift']}" if summary["shift"] else ""), summary))
    if "failures" in summary:
        lines.append("failed: " + ", ".join(f"{kind} {count}" for kind, count in summary["failures"].items()))
    if "expected" in summary:
        expected = summary["expected"]
        low, high = (f"{bound:.1%}" for bound in summary["ci95"])
        what = {"agrees": "agrees", "below": "is lower", "above": "is higher"}
        lines.append(
            f"published {expected['percent']:.1f} %: ours {what[expected['verdict']]}, {expected['points']:+.1f} points"
            f" (our 95 % interval {low} to {high})"
        )
    if "comparison" in summary:
        difference = summary["comparison"]
        low, high = difference["ci95"]
        lines.append(
            f"paired difference {difference['points']:+.1f} points"
            f" (95 % interval {low:+.1f} to {high:+.1f}), McNemar p = {difference['p_value']:.2g}"
        )
        lines.append(f"{difference['differing_episodes']} of {summary['episodes']} episodes end differently")
        if not difference["same_simulator"]:
            lines.append("warning: the two were simulated by other versions (see `simulator` in the files)")
    return lines
