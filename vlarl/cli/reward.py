"""`vlarl reward`: label trajectories, train and measure the process reward model, record and redraw its data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro

from vlarl.cli.options import parse, print_json
from vlarl.configs.env import EnvConfig, RenderProfile
from vlarl.configs.reward import LabelConfig, RewardModelConfig, RewardTrainingConfig
from vlarl.errors import UserError, unknown_name
from vlarl.reporting.progress import Console


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Labels the frames of successful trajectories and says what was found."""

    data: tyro.conf.Positional[tuple[Path, ...]]
    """HDF5 files in LIBERO's layout, folders of such, or LeRobot data sets."""
    labels: LabelConfig = field(default_factory=LabelConfig)
    image_size: int = 64
    """Side of the frames, pixels."""
    plot: Path | None = None
    """HTML file with speed, gripper, segments and keyframes under the frames."""
    plot_episodes: int = 4
    """Episodes per task that are drawn."""
    json: bool = False
    """Print the labels as JSON."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Trains a reward model and measures it. The same command after an interruption goes on where it stopped."""

    data: tyro.conf.Positional[tuple[Path, ...]]
    """Episodes of the tasks that are trained; some of each task are held out for the figures."""
    held_out_data: tuple[Path, ...] = ()
    """Episodes of tasks that are for the figures only."""
    output: Path = Path("runs/reward")
    """Folder; OUTPUT/model is what process_reward.model names."""
    model: RewardModelConfig = field(default_factory=RewardModelConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    training: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    turn_steps: int = 8
    """Env steps per turn in RL; figures that add up rewards use the frames of turns."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measures a reward model on what its training held out, or on other data."""

    folder: tyro.conf.Positional[Path]
    """Output of `vlarl reward train`."""
    data: tuple[Path, ...] = ()
    """Episodes to measure on instead."""
    plot: Path | None = None
    """HTML page; default: FOLDER/reward.html, with other data none."""
    plot_episodes: int = 4
    """Episodes per task that are drawn."""
    turn_steps: int = 8
    """Env steps per turn in RL."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True, kw_only=True)
class RolloutsOptions:
    """Records a policy's episodes from training starts, failures too, with a frame of every env step."""

    policy: Path
    """Policy folder of a run, for example RUN/sft/policy."""
    output: Path
    """Folder for the HDF5 files."""
    episodes: int = 10
    """Episodes per task."""
    temperature: float = 1.0
    """Sampling temperature."""
    seed: int = 1
    """Of the starts and of sampling."""
    task_ids: tuple[int, ...] | None = None
    """Tasks; default: the run's."""
    num_envs: int = 8
    """Environment slots."""
    num_workers: int = 2
    """Worker processes."""
    json: bool = False
    """Print the counts as JSON."""


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """Draws recorded episodes anew from their states, in the profile and size that RL uses."""

    data: tyro.conf.Positional[tuple[Path, ...]]
    """HDF5 files in LIBERO's layout, or folders of such."""
    task_suite: str
    """Suite of their tasks."""
    output: Path
    """Folder for the HDF5 files."""
    image_size: int = 64
    """Side of the frames, pixels."""
    render_profile: RenderProfile = "fast"
    """fast or reference."""
    json: bool = False
    """Print the counts as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Runs the subcommand."""
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<10}{kind.__doc__.splitlines()[0]}" for name, (kind, _) in SUBCOMMANDS.items()]
        print("\n".join(["usage: vlarl reward SUBCOMMAND [options]", "", *lines]))
        return 0 if argv else 2
    if argv[0] not in SUBCOMMANDS:
        raise unknown_name("subcommand of vlarl reward", argv[0], SUBCOMMANDS)
    kind, run = SUBCOMMANDS[argv[0]]
    options = parse(kind, argv[1:], f"{command} {argv[0]}")
    run(options, Console())
    return 0


def _label(options: LabelOptions, console: Console) -> None:
    from vlarl.reporting.reward_page import write_label_page
    from vlarl.training.reward_run import load_labelled

    episodes = load_labelled([str(path) for path in options.data], options.image_size, options.labels)
    rows = [
        {
            "instruction": e.episode.instruction,
            "episode": e.episode.start.index,
            "success": e.episode.success,
            "steps": len(e.labels),
            "segments": [list(segment) for segment in e.milestones.segments],
            "keyframes": list(e.milestones.keyframes),
            "labels": e.labels.tolist(),
            "warning": e.milestones.warning,
        }
        for e in episodes
    ]
    if options.plot is not None:
        title = f"Labels by {options.labels.labeller}"
        write_label_page(options.plot, [episodes[i] for i in _per_task(episodes, options.plot_episodes)], title)
        console.line(f"page: {options.plot}")
    if options.json:
        print_json({"labeller": options.labels.labeller, "episodes": rows})
        return
    print(f"{'task':<60} episode  steps  segments  keyframes  positive")
    for row in rows:
        positive = sum(label == 1 for label in row["labels"]) / row["steps"]
        print(
            f"{row['instruction'][:60]:<60} {row['episode']:>7} {row['steps']:>6} {len(row['segments']):>9}"
            f" {len(row['keyframes']):>10} {positive:>9.0%}{'' if row['success'] else '  failure'}"
        )
    for warning, count in _count([row["warning"] for row in rows if row["warning"]]).items():
        print(f"warning: {count} of {len(rows)} episodes: {warning}")


def _train(options: TrainOptions, console: Console) -> None:
    from vlarl.training.reward_run import RewardFolder, RewardRunConfig, train_and_save

    config = RewardRunConfig(
        data=tuple(str(path) for path in options.data),
        held_out_data=tuple(str(path) for path in options.held_out_data),
        model=options.model,
        labels=options.labels,
        training=options.training,
    )
    folder = RewardFolder(options.output)
    with console.bar("reward model", options.training.num_steps, "step") as update:

        def log(row: dict[str, float]) -> None:
            figures = {"loss": f"{row['losses/train_loss']:.3f}", "auc": f"{row['evaluation/roc_auc']:.3f}"}
            update(int(row["step"]), **figures)

        train_and_save(folder, config, log)
    evaluated = EvaluateOptions(folder=options.output, turn_steps=options.turn_steps, json=options.json)
    _evaluate(evaluated, console)


def _evaluate(options: EvaluateOptions, console: Console) -> None:
    from vlarl.reporting.reward_page import format_table, write_evaluation_page
    from vlarl.training.reward_run import RewardFolder, evaluate_reward_model

    folder = RewardFolder(options.folder)
    data = [str(path) for path in options.data]
    figures, episodes, scores = evaluate_reward_model(folder, options.turn_steps, data)
    page = options.plot or (None if data else folder.page)
    if page is not None:
        chosen = _per_task(episodes, options.plot_episodes)
        title = f"Reward model {options.folder.name}"
        write_evaluation_page(page, title, figures, [episodes[i] for i in chosen], [scores[i] for i in chosen])
        console.line(f"page: {page}")
    if options.json:
        print_json(figures)
    else:
        print("\n".join(format_table(figures)))


def _rollouts(options: RolloutsOptions, console: Console) -> None:
    from vlarl.evaluation.recorded_rollouts import record_rollouts
    from vlarl.inference.local import LocalGenerator
    from vlarl.policies.checkpoint import load_policy
    from vlarl.system import require_rendering
    from vlarl.training.run_folder import load_env_config

    policy = load_policy(options.policy)
    config = load_env_config(options.policy)
    if config is None:
        raise UserError(f"{options.policy} lies in no run: name the policy of one, for example RUN/sft/policy")
    config = replace(config, num_envs=options.num_envs, num_workers=options.num_workers)
    if options.task_ids is not None:
        config = replace(config, task_ids=options.task_ids)
    require_rendering()
    generator = LocalGenerator(policy, options.temperature)
    counts = record_rollouts(config, generator, options.episodes, options.seed, options.output, console.line)
    if options.json:
        print_json(counts)


def _render(options: RenderOptions, console: Console) -> None:
    from vlarl.data.sources import load_episodes
    from vlarl.evaluation.recorded_rollouts import render_again
    from vlarl.system import require_rendering

    episodes = load_episodes(options.data, None)
    config = EnvConfig(
        task_suite=options.task_suite, image_size=options.image_size, render_profile=options.render_profile
    )
    require_rendering()
    counts = render_again(config, episodes, options.output, console.line)
    if options.json:
        print_json(counts)


def _per_task(episodes: Sequence[Any], count: int) -> list[int]:
    """Indices of the first `count` episodes of each task."""
    chosen: dict[str, list[int]] = {}
    for index, labelled in enumerate(episodes):
        chosen.setdefault(labelled.episode.instruction, []).append(index)
    return [index for indices in chosen.values() for index in indices[:count]]


def _count(texts: Sequence[str]) -> dict[str, int]:
    return {text: texts.count(text) for text in dict.fromkeys(texts)}


SUBCOMMANDS: dict[str, tuple[type, Callable[[Any, Console], None]]] = {
    "label": (LabelOptions, _label),
    "train": (TrainOptions, _train),
    "evaluate": (EvaluateOptions, _evaluate),
    "rollouts": (RolloutsOptions, _rollouts),
    "render": (RenderOptions, _render),
}
