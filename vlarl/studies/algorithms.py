"""PPO against its critic-free siblings on the same env steps."""

from dataclasses import replace

from vlarl.configs.training import Algorithm, TrainConfig
from vlarl.studies.ablations import FULL
from vlarl.studies.base import Claim, Study, Variant


def _critic_free(config: TrainConfig, algorithm: Algorithm) -> TrainConfig:
    ppo = config.ppo
    # No critic to warm up: the same rollouts, all of them to learn from.
    ppo = replace(ppo, critic_warmup_iterations=0, num_iterations=ppo.total_iterations)
    return replace(config, algorithm=algorithm, ppo=ppo)


STUDY = Study(
    name="algorithms",
    question="Is the critic worth its cost?",
    variants=(
        FULL,
        Variant(name="grpo", about="groups of 8 from one start, no critic", change=lambda c: _critic_free(c, "grpo")),
        Variant(
            name="rloo", about="groups of 8, each against the others' mean", change=lambda c: _critic_free(c, "rloo")
        ),
    ),
    claims=(
        Claim(text="PPO with a critic beats GRPO", confidence="none", better="full", worse="grpo"),
        Claim(text="PPO with a critic beats leave-one-out", confidence="none", better="full", worse="rloo"),
    ),
)
