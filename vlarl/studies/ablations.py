"""Which parts of the method matter: each one left out or changed."""

from dataclasses import replace
from typing import Any

from vlarl.configs.curriculum import Strategy
from vlarl.configs.training import TrainConfig
from vlarl.studies.base import Change, Claim, Study, Variant


def with_ppo(**settings: Any) -> Change:  # noqa: ANN401 - of PPOConfig
    """A change of PPO's settings."""
    return lambda config: replace(config, ppo=replace(config.ppo, **settings))


def with_curriculum(strategy: Strategy) -> Change:
    """A change of the curriculum's strategy."""
    return lambda config: replace(config, curriculum=replace(config.curriculum, strategy=strategy))


def _without_warmup(config: TrainConfig) -> TrainConfig:
    ppo = config.ppo
    # The same env steps: the warm-up's rollouts become PPO's.
    total = ppo.total_iterations
    return replace(config, ppo=replace(ppo, critic_warmup_iterations=0, num_iterations=total))


def _learning_rate_times_ten(config: TrainConfig) -> TrainConfig:
    # Without the KL stop, which would end every iteration after one step and hide what the rate does.
    return with_ppo(learning_rate=10 * config.ppo.learning_rate, target_kl=None)(config)


FULL = Variant(name="full", about="the recipe as it is")

STUDY = Study(
    name="ablations",
    question="Which parts of the method matter?",
    variants=(
        FULL,
        Variant(name="no-warmup", about="no critic warm-up, the same env steps", change=_without_warmup),
        Variant(name="uniform", about="tasks sampled uniformly", change=with_curriculum("uniform")),
        Variant(name="temperature-1.0", about="rollouts at temperature 1.0", change=with_ppo(temperature=1.0)),
        Variant(name="temperature-1.5", about="rollouts at temperature 1.5", change=with_ppo(temperature=1.5)),
        Variant(
            name="learning-rate-x10",
            about="ten times the policy's learning rate, no KL stop",
            change=_learning_rate_times_ten,
        ),
        Variant(name="turn-ratio", about="one importance ratio per turn", change=with_ppo(ratio_level="turn")),
        Variant(
            name="small-value",
            about="a small value network in place of the homogeneous one",
            change=lambda config: replace(config, value="small"),
        ),
    ),
    claims=(
        Claim(text="A critic warm-up helps", confidence="high", better="full", worse="no-warmup"),
        Claim(text="The curriculum beats uniform sampling", confidence="medium", better="full", worse="uniform"),
        Claim(
            text="Temperature 1.5 explores and ends higher than 1.0",
            confidence="stated",
            better="temperature-1.5",
            worse="temperature-1.0",
        ),
        Claim(
            text="Ten times the learning rate collapses", confidence="stated", better="full", worse="learning-rate-x10"
        ),
        Claim(text="Ratios per token beat ratios per turn", confidence="medium", better="full", worse="turn-ratio"),
        Claim(
            text="A homogeneous value network beats a small one",
            confidence="medium",
            better="full",
            worse="small-value",
        ),
    ),
)
