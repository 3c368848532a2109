"""The process reward: labels from successes, the model that learns them, and its part in RL."""

from dataclasses import dataclass

from vlarl.configs.checks import require_at_least, require_finite, require_positive
from vlarl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Which frames of a trajectory count as progress. A step is an env step, 1/20 s in LIBERO.

    Raises:
        UserError: if a value is impossible.
    """

    labeller: str = "gripper"
    """Registered labeller (`vlarl.rewards.process.labels.LABELLERS`): gripper (the paper's), or object_motion for
    tasks whose gripper does not tell."""
    min_opening_change: float = 0.005
    """gripper: a change of the distance between the fingers counts from this on, metres."""
    still_opening_rate: float = 0.008
    """gripper: fingers that open or close more slowly stand still, metres per second."""
    min_segment_steps: int = 24
    """gripper: two changes that undo each other within fewer steps are chatter, or a grasp that missed."""
    speed_fraction: float = 0.3
    """gripper: the hand stands still below this share of the trajectory's median speed."""
    min_displacement: float = 0.01
    """object_motion: what moved less from start to end counts as unmoved, metres or radians."""
    progress_fractions: tuple[float, ...] = (0.1, 0.5)
    """object_motion: shares of the way of what moved that are milestones; the end is one too."""
    tolerance_steps: int = 4
    """Frames within so many steps of a keyframe are positive: half a turn, so that a turn's frame falls into it."""
    ignore_steps: int = 4
    """Frames within so many further steps are neither."""

    def __post_init__(self) -> None:
        require_finite(self, "labels")
        require_positive(self, "labels", "min_opening_change", "still_opening_rate", "speed_fraction")
        require_positive(self, "labels", "min_displacement")
        require_at_least(self, "labels", 0, "tolerance_steps", "ignore_steps")
        require_at_least(self, "labels", 1, "min_segment_steps")
        if not all(0 < fraction < 1 for fraction in self.progress_fractions):
            raise UserError(f"labels.progress_fractions must be in (0, 1), got {list(self.progress_fractions)}")
