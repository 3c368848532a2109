"""Named functions that return a complete configuration; command-line flags only override."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from vlarl.configs.curriculum import CurriculumConfig
from vlarl.configs.env import EnvConfig
from vlarl.configs.openvla import LoRAConfig, OpenVLAPolicyConfig
from vlarl.configs.policy import PolicyConfig
from vlarl.configs.training import (
    DemonstrationConfig,
    EvaluationConfig,
    PPOConfig,
    SFTConfig,
    TrainConfig,
)
from vlarl.errors import UserError, unknown_name


@dataclass(frozen=True)
class QuickstartSuite:
    """What the quickstart takes of a suite."""

    task_ids: tuple[int, ...]
    max_episode_steps: int | None
    """Episode limit in training, env steps: what an expert needs with one mistake, and some."""
    max_instruction_tokens: int
    """Tokens of the suite's longest instruction: the policy pads to no more."""


QUICKSTART_SUITES: dict[str, QuickstartSuite] = {
    "libero_goal": QuickstartSuite((1, 8), 136, 10),
    "libero_object": QuickstartSuite((0, 8), 184, 12),
    "libero_spatial": QuickstartSuite((0,), 160, 20),
}
"""The first is the default."""
OTHER_SUITE = QuickstartSuite(task_ids=(), max_episode_steps=None, max_instruction_tokens=24)
"""Any other, with tasks named by the user and the protocol's step limit."""


def quickstart(*, seed: int = 0, task_suite: str | None = None, task_ids: tuple[int, ...] | None = None) -> TrainConfig:
    """The main job on two CPU cores: two LIBERO tasks learned jointly, demonstrations, SFT, PPO.

    Raises:
        UserError: a suite without quickstart tasks, and no task_ids.
    """
    name = task_suite or next(iter(QUICKSTART_SUITES))
    if task_ids is None and name not in QUICKSTART_SUITES:
        error = unknown_name("quickstart suite", name, QUICKSTART_SUITES)
        raise UserError(f"{error}. Of any other suite, name the tasks: --task-ids")
    suite = QUICKSTART_SUITES.get(name, OTHER_SUITE)
    return TrainConfig(
        recipe="quickstart",
        seed=seed,
        env=EnvConfig(
            name="libero",
            task_suite=name,
            task_ids=suite.task_ids if task_ids is None else task_ids,
            max_episode_steps=suite.max_episode_steps,
            # All trajectories of an iteration at once: larger batches decode faster per turn.
            num_envs=64,
        ),
        # Height of the hand, fingers and gripper command. Where the hand is above the table has to be seen, or the
        # policy could do without the image.
        policy=PolicyConfig(
            proprio_entries=(2, 9, 10, 11),
            max_instruction_tokens=suite.max_instruction_tokens,
        ),
        # Of two per task, one is held out for the validation loss. With a recovery in each, seeds start more alike.
        demonstrations=DemonstrationConfig(episodes_per_task=2, recovery_probability=1.0),
        sft=SFTConfig(num_steps=700),
        # A turn has 56 tokens: a KL of 0.002 per token is 0.1 nats per turn. Steps that go farther undo each other.
        ppo=PPOConfig(
            num_iterations=24, learning_rate=3e-4, target_kl=0.002, temperature=0.8, bootstrap_truncated=False
        ),
        curriculum=CurriculumConfig(),
        evaluation=EvaluationConfig(validation_interval=18, probe_episodes_per_task=10),
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
        demonstrations=DemonstrationConfig(episodes_per_task=0),
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


OPENVLA_SUITES: dict[str, str] = {
    "libero_spatial": "openvla/openvla-7b-finetuned-libero-spatial",
    "libero_object": "openvla/openvla-7b-finetuned-libero-object",
    "libero_goal": "openvla/openvla-7b-finetuned-libero-goal",
    "libero_10": "openvla/openvla-7b-finetuned-libero-10",
}
"""Suite -> OpenVLA's published fine-tune on its demonstrations, which RL starts from."""


def openvla_env(task_suite: str, task_ids: tuple[int, ...] = tuple(range(10))) -> EnvConfig:
    """LIBERO as OpenVLA's evaluation sees it: upstream's physics and pixels, a new action at every env step."""
    return EnvConfig(
        name="libero",
        task_suite=task_suite,
        task_ids=task_ids,
        image_size=256,  # OpenVLA's run_libero_eval.py
        stepping="exact",
        render_profile="reference",
        replan_steps=1,  # OpenVLA emits one action at a time
        num_envs=10,  # authors' code: 10 environments per GPU
        num_workers=10,
    )


def openvla_7b(task_suite: str) -> TrainConfig:
    """OpenVLA-7B with LoRA on one suite, from the published fine-tune (paper: VLA-RL, arXiv 2505.18719)."""
    return TrainConfig(
        recipe=f"openvla_7b_{task_suite}",
        env=openvla_env(task_suite),
        policy=OpenVLAPolicyConfig(
            checkpoint=OPENVLA_SUITES[task_suite],
            lora=LoRAConfig(rank=32, alpha=16),  # authors' code, as OpenVLA's finetune.py
            center_crop=True,  # the fine-tunes were trained with random crops
            gradient_checkpointing=True,
        ),
        # The published fine-tune is the SFT stage; a number here adds SFT on demonstrations of our experts.
        demonstrations=DemonstrationConfig(episodes_per_task=0),
        sft=SFTConfig(
            learning_rate=5e-4,  # OpenVLA's finetune.py, as the next three
            minibatch_size=16,
            weight_decay=0.01,
            ema_decay=0.0,  # no average
            microbatch_size=4,
            crop_pixels=6,  # with the centre crop: random crops of 90 % of the area; no colour jitter
        ),
        ppo=PPOConfig(
            num_iterations=100,  # unknown; the paper's curves count optimisation steps
            critic_warmup_iterations=5,  # authors' script
            critic_warmup_epochs=1,
            rollout_batch_size=64,  # authors' code: 128 steps in each of 10 environments per GPU, 7 GPUs
            minibatch_size=128,  # unknown
            microbatch_size=4,
            update_epochs=1,  # authors' code
            temperature=1.5,  # paper: 1.5 explores, 1.0 converges worse
            ratio_level="token",  # paper's text; authors' code: turn
            clip_ratio_low=0.2,  # authors' code
            clip_ratio_high=0.2,
            value_clip_range=0.2,  # authors' code
            gamma=0.99,  # authors' code
            gae_lambda=0.95,
            learning_rate=2e-5,  # paper: stable; 2e-4 collapses; authors' script: 5e-6
            value_learning_rate=5e-5,  # authors' script
            max_grad_norm=1.0,  # authors' code
            anneal_lr=False,
            target_kl=None,
        ),
        evaluation=EvaluationConfig(episodes_per_task=50),  # OpenVLA's protocol: 50 trials per task
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {"quickstart": quickstart, "toy": toy} | {
    f"openvla_7b_{suite}": partial(openvla_7b, suite) for suite in OPENVLA_SUITES
}


def make_recipe(name: str) -> TrainConfig:
    """Returns the configuration of a recipe.

    Raises:
        UserError: unknown name, with the nearest.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
