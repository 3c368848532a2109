"""Whether the process reward helps, and where not: the source's open check."""

from dataclasses import replace
from pathlib import Path

from vlarl.configs.reward import LabelConfig, RewardModelConfig, RewardTrainingConfig
from vlarl.configs.training import DemonstrationConfig, TrainConfig
from vlarl.files import atomic_folder
from vlarl.reporting.progress import Console
from vlarl.studies.base import Claim, Study, Variant

PREFIX = "study:"
"""`process_reward.model` of a variant: the study trains that model; what follows is the labeller."""
TASKS = {"libero_goal": (3, 5, 7, 8)}
"""Open a drawer and put the bowl inside (long), push the plate, turn on the stove, the bowl on the plate."""
DEMONSTRATIONS = DemonstrationConfig(episodes_per_task=16, recovery_probability=0.5, seed=1)
"""What the reward models learn from: others than the policy's."""


def _four_tasks(config: TrainConfig) -> TrainConfig:
    tasks = TASKS.get(config.env.task_suite)
    if tasks is None:
        return config
    # Under the protocol's step limit: the drawer task takes its expert 277 of 300.
    return replace(config, env=replace(config.env, task_ids=tasks, max_episode_steps=None))


def _labelled_by(labeller: str, config: TrainConfig) -> TrainConfig:
    process = replace(config.process_reward, model=f"{PREFIX}{labeller}")
    return replace(config, reward="process", process_reward=process)


def with_reward_model(config: TrainConfig, output: Path, console: Console) -> TrainConfig:
    """Puts the folder of a trained reward model in the place of a study's name for it; trains it when first asked.

    Raises:
        UserError: demonstrations that cannot be collected or labelled.
    """
    name = config.process_reward.model
    if name is None or not name.startswith(PREFIX):
        return config
    # Needs the simulator.
    from vlarl.experts.demonstrations import collect_demonstrations
    from vlarl.training.reward_run import RewardFolder, RewardRunConfig, evaluate_reward_model, train_and_save

    labeller = name.removeprefix(PREFIX)
    tasks = "_".join(map(str, config.env.task_ids))
    demos = output / "reward" / f"{config.env.task_suite}_{tasks}_demos"
    folder = RewardFolder(output / "reward" / f"{config.env.task_suite}_{tasks}_{labeller}")
    if not folder.figures.is_file():
        if not demos.is_dir():
            with atomic_folder(demos) as part:
                collect_demonstrations(config.env, DEMONSTRATIONS, part, console.line)
        reward = RewardRunConfig(
            data=(str(demos),),
            model=RewardModelConfig(image_size=config.env.image_size),
            labels=LabelConfig(labeller=labeller),
            training=RewardTrainingConfig(),
        )
        train_and_save(folder, reward, lambda row: console.line(f"reward model, {labeller}: {row}"))
        evaluate_reward_model(folder, config.env.replan_steps)
    return replace(config, process_reward=replace(config.process_reward, model=str(folder.model)))


STUDY = Study(
    name="process-reward",
    question="Does the process reward help, and where not?",
    configure=_four_tasks,
    variants=(
        Variant(name="sparse", about="success alone"),
        Variant(
            name="gripper",
            about="process reward, labels from the gripper (the paper's)",
            change=lambda config: _labelled_by("gripper", config),
        ),
        Variant(
            name="object-motion",
            about="process reward, labels from what moves in the scene",
            change=lambda config: _labelled_by("object_motion", config),
        ),
    ),
    claims=(
        Claim(
            text="The process reward speeds learning up",
            confidence="high",
            better="gripper",
            worse="sparse",
            metric="curve",
        ),
        Claim(text="The process reward ends higher", confidence="high", better="gripper", worse="sparse"),
        Claim(
            text="Labels from motion beat labels from the gripper where the gripper does not tell",
            confidence="none",
            better="object-motion",
            worse="gripper",
        ),
    ),
)
