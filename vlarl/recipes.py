"""Named functions that return a complete configuration; command-line flags only override."""

from collections.abc import Callable

from vlarl.configs.curriculum import CurriculumConfig
from vlarl.configs.env import EnvConfig
from vlarl.configs.policy import PolicyConfig
from vlarl.configs.training import (
    DemonstrationConfig,
    EvaluationConfig,
    PPOConfig,
    SFTConfig,
    TrainConfig,
)
from vlarl.errors import unknown_name

QUICKSTART_TASKS: dict[str, tuple[int, ...]] = {
    "libero_goal": (1, 6),
    "libero_object": (0, 8),
    "libero_spatial": (0,),
}
"""Suite -> tasks that the quickstart takes of it: those with an expert. The first suite is the default."""
TRAINING_LIMITS: dict[str, int] = {"libero_object": 184, "libero_goal": 136, "libero_spatial": 160}
"""Suite -> episode limit in training, env steps: what an expert needs with one mistake, and some."""


def quickstart(*, seed: int = 0, task_suite: str | None = None, task_ids: tuple[int, ...] | None = None) -> TrainConfig:
    """The main job on two CPU cores: two LIBERO tasks learned jointly, demonstrations, SFT, PPO.

    Raises:
        UserError: a suite without quickstart tasks, and no task_ids.
    """
    suite = task_suite or next(iter(QUICKSTART_TASKS))
    if task_ids is None:
        if suite not in QUICKSTART_TASKS:
            raise unknown_name("quickstart suite", suite, QUICKSTART_TASKS)
        task_ids = QUICKSTART_TASKS[suite]
    return TrainConfig(
        recipe="quickstart",
        seed=seed,
        env=EnvConfig(name="libero", task_suite=suite, task_ids=task_ids, max_episode_steps=TRAINING_LIMITS.get(suite)),
        # Height of the hand, fingers and gripper command. Where the hand is above the table has to be seen, or the
        # policy could do without the image.
        policy=PolicyConfig(proprio_entries=(2, 9, 10, 11)),
        # Of two per task, one is held out for the validation loss.
        demonstrations=DemonstrationConfig(episodes_per_task=2),
        sft=SFTConfig(num_steps=1400),
        ppo=PPOConfig(num_iterations=22, learning_rate=5e-4, temperature=0.8, bootstrap_truncated=False),
        curriculum=CurriculumConfig(),
        evaluation=EvaluationConfig(validation_interval=6),
    )


def toy() -> TrainConfig:
    """Image and instruction without a simulator; learns from scratch in under a minute, bit-exact on resume."""
    return TrainConfig(
        recipe="toy",
        exact=True,
        learner_threads=1,
        env=EnvConfig(
            name="toy", task_suite="toy", task_ids=(0, 1), image_size=16, num_envs=16, num_workers=2, replan_steps=2
        ),
        policy=PolicyConfig(
            image_size=16,
            vision_channels=(16, 32),
            hidden_size=64,
            intermediate_size=128,
            max_instruction_tokens=7,
            proprio_dim=2,
            action_dim=2,
            action_horizon=2,
            num_bins=16,
        ),
        demonstrations=None,
        ppo=PPOConfig(
            num_iterations=20,
            rollout_batch_size=64,
            minibatch_size=64,
            microbatch_size=64,
            update_epochs=2,
            critic_warmup_epochs=4,
            temperature=1.0,
            learning_rate=2e-3,
            value_learning_rate=1e-3,
            target_kl=0.1,
        ),
        evaluation=EvaluationConfig(validation_interval=10, validation_episodes_per_task=25),
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {"quickstart": quickstart, "toy": toy}


def make_recipe(name: str) -> TrainConfig:
    """Returns the configuration of a recipe.

    Raises:
        UserError: unknown name, with the nearest.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
