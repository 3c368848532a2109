"""Which tasks are sampled how often."""

from dataclasses import dataclass
from typing import Literal, get_args

from vlarl.configs.checks import require_finite, require_positive, require_share
from vlarl.errors import check_names

Strategy = Literal["frontier", "uniform", "failure", "failure_floored", "paper"]


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Sampling of tasks by their success.

    Raises:
        UserError: if a value is impossible.
    """

    strategy: Strategy = "frontier"
    """frontier: p ~ s (1 - s), most at 50 % success; failure: p ~ (1 - s + 1e-9)^(1/T); failure_floored: p ~
    max((1 - s)^(1/T), 0.1); paper: p ~ exp((1 - s)/T)."""
    temperature: float = 1.0
    """T of all but `frontier` and `uniform`; smaller is sharper."""
    prior_successes: float = 1.0
    """Successes that every task's estimate starts from."""
    prior_failures: float = 1.0
    """Failures that every task's estimate starts from."""
    memory: float = 0.7
    """Share of the counts that is kept from one iteration to the next; 1 forgets nothing."""
    min_share: float = 0.25
    """`frontier` gives every task at least this share of its uniform probability."""

    def __post_init__(self) -> None:
        check_names("curriculum.strategy", [self.strategy], get_args(Strategy))
        require_finite(self, "curriculum")
        require_positive(self, "curriculum", "temperature", "prior_successes", "prior_failures")
        require_share(self, "curriculum", "memory", "min_share")
