"""What a study is: variants of one configuration, and claims about pairs of them."""

from collections.abc import Callable
from dataclasses import dataclass
from os.path import commonprefix
from typing import Literal

from vlarl.configs.env import EnvConfig
from vlarl.configs.training import TrainConfig
from vlarl.errors import UserError, unknown_name

Metric = Literal["final", "curve", "lift", "growth"]
"""final: greedy success on the evaluation starts after RL, starts and seeds paired; curve: success of the rollouts,
averaged over the env steps of training, seeds paired; lift: final of `better` minus SFT's greedy success in `worse`;
growth: success of the rollouts in the last tenth of `better`'s training minus that in the first tenth of `worse`'s."""
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
"""Verdicts."""
Change = Callable[[TrainConfig], TrainConfig]
Confidence = Literal["high", "medium", "low", "stated", "none"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One column of the grid: what is changed in the configuration."""

    name: str
    about: str
    """What it is, for the table."""
    change: Change = lambda config: config
    evaluated_in: Callable[[EnvConfig], EnvConfig] | None = None
    """Another environment for the evaluation of both policies; training is that of the variant without it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the grid: what is trained, and the environment in which it is evaluated."""

    config: TrainConfig
    env: EnvConfig

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is evaluated in another environment than it was trained in."""
        return self.env != self.config.env


@dataclass(frozen=True, kw_only=True)
class Claim:
    """`better` is above `worse` in `metric`; the verdict follows from the difference's 95 % interval."""

    text: str
    confidence: Confidence
    """How sure the source is; none: it does not say so."""
    better: str | tuple[str, ...]
    """Variant, or several of which each is compared with the one at the same place in `worse`, all counting alike."""
    worse: str | tuple[str, ...]
    metric: Metric = "final"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Names of the variants that are compared with each other."""
        return tuple(zip(_names(self.better), _names(self.worse), strict=True))


def _names(variants: str | tuple[str, ...]) -> tuple[str, ...]:
    return (variants,) if isinstance(variants, str) else variants


def label(variants: str | tuple[str, ...]) -> str:
    """What several variants have in common at the beginning of their names, and how many they are."""
    if isinstance(variants, str):
        return variants
    return f"{commonprefix(variants).strip()} ({len(variants)})"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A declared grid: every variant with every seed.

    Raises:
        UserError: a claim about a variant that the study lacks.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]
    configure: Change = lambda config: config
    """What all variants share, made from the recipe (tasks, budget)."""
    environment: str | None = None
    """The only environment that has its variants; None: any."""
    growing: tuple[str, ...] = ()
    """Variants to whose learning curves laws of growth are fitted."""

    def __post_init__(self) -> None:
        for claim in self.claims:
            for better, worse in claim.pairs:
                self.variant(better), self.variant(worse)
        for name in self.growing:
            self.variant(name)

    def variant(self, name: str) -> Variant:
        """The variant of that name.

        Raises:
            UserError: there is none.
        """
        found = {variant.name: variant for variant in self.variants}
        if name not in found:
            raise unknown_name(f"variant of the study {self.name}", name, found)
        return found[name]

    def job(self, recipe: TrainConfig, variant: Variant) -> Job:
        """One run; the recipe brings the seed.

        Raises:
            UserError: the recipe's environment has not what the study changes.
        """
        if self.environment not in (None, recipe.env.name):
            raise UserError(
                f"the study {self.name} needs {self.environment}, the recipe {recipe.recipe} trains on"
                f" {recipe.env.name}: choose another --recipe"
            )
        config = variant.change(self.configure(recipe))
        return Job(config=config, env=variant.evaluated_in(config.env) if variant.evaluated_in else config.env)
