"""Does success go on growing with training, for a small policy and a large one, and how is compute best spent?"""

from dataclasses import replace

from vlarl.configs.openvla import OpenVLAPolicyConfig
from vlarl.configs.training import TrainConfig
from vlarl.studies.ablations import FULL, with_curriculum
from vlarl.studies.base import Claim, Study, Variant

LENGTH = 4
"""Iterations of the long trainings, in the recipe's."""
FIXED_SHARE, EPOCH_SHARE = 0.63, 0.18
"""What an iteration of the quickstart costs, as shares of one with two epochs: rollouts and scoring once (56 % and 7 %
of its time), and each pass of the update."""


def _long(config: TrainConfig) -> TrainConfig:
    # A constant rate and constant odds of the tasks: then every beginning of the training is a shorter training, and
    # success means the same at each of its points.
    ppo = replace(config.ppo, num_iterations=LENGTH * config.ppo.num_iterations, anneal_lr=False)
    return replace(with_curriculum("uniform")(config), ppo=ppo)


def _small(config: TrainConfig) -> TrainConfig:
    policy = config.policy
    if isinstance(policy, OpenVLAPolicyConfig):
        # Seven billion parameters stay what they are: fewer of them learn.
        lora = policy.lora
        if lora is not None:
            # The scale alpha / rank stays.
            lora = replace(lora, rank=max(1, lora.rank // 4), alpha=max(1, lora.alpha // 4))
        return replace(config, policy=replace(policy, lora=lora))
    channels = tuple(max(1, channels // 2) for channels in policy.vision_channels)
    size = {"hidden_size": policy.hidden_size // 2, "intermediate_size": policy.intermediate_size // 2}
    return replace(config, policy=replace(policy, vision_channels=channels, **size))


def _with_epochs(epochs: int, config: TrainConfig) -> TrainConfig:
    """The recipe's compute, spent on other numbers of epochs and so of iterations."""

    def cost(count: int) -> float:
        return FIXED_SHARE + EPOCH_SHARE * count

    iterations = round(config.ppo.num_iterations * cost(config.ppo.update_epochs) / cost(epochs))
    return replace(config, ppo=replace(config.ppo, update_epochs=epochs, num_iterations=max(1, iterations)))


STUDY = Study(
    name="scaling",
    question="Does success go on growing with training?",
    variants=(
        FULL,
        Variant(name="long", about=f"{LENGTH} times the iterations, constant rate, uniform tasks", change=_long),
        Variant(
            name="long-small",
            about="the same with half the width (7B: a quarter of LoRA's rank)",
            change=lambda config: _long(_small(config)),
        ),
        Variant(
            name="epochs-1",
            about="one epoch per iteration, and more iterations for the same compute",
            change=lambda config: _with_epochs(1, config),
        ),
        Variant(
            name="epochs-4",
            about="four epochs per iteration, and fewer iterations for the same compute",
            change=lambda config: _with_epochs(4, config),
        ),
    ),
    claims=(
        Claim(text="Success grows with training", confidence="low", better="long", worse="long", metric="growth"),
        Claim(
            text="Success grows with training, small policy",
            confidence="none",
            better="long-small",
            worse="long-small",
            metric="growth",
        ),
        Claim(text="A larger policy ends higher", confidence="none", better="long", worse="long-small"),
        Claim(
            text="New env steps are worth more than a second epoch", confidence="none", better="epochs-1", worse="full"
        ),
        Claim(text="Four epochs are worth more than new env steps", confidence="none", better="epochs-4", worse="full"),
    ),
    growing=("long", "long-small"),
)
