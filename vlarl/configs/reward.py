"""The process reward: labels from successes, the model that learns them, and its part in RL."""

from dataclasses import dataclass, field
from typing import Literal

from vlarl.configs.checks import require_at_least, require_finite, require_positive, require_seed, require_share
from vlarl.configs.openvla import LoRAConfig
from vlarl.errors import UserError, check_names

TINY = "tiny"
"""Name of the model that is built from its configuration."""


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


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """A vision-language model that is asked whether a frame shows progress on a task.

    Raises:
        UserError: if a size is impossible.
    """

    name: str = TINY
    """tiny: a Qwen2-VL of the sizes below with random weights, for CPUs; else a checkpoint that transformers loads as
    an image-text-to-text model, a folder or a name such as Qwen/Qwen2-VL-2B-Instruct, which gets LoRA."""
    image_size: int = 64
    """Side of the frames that the model is trained on, pixels."""
    question: str | None = None
    """What is asked, with {instruction} in it; None: the tiny model is shown the bare instruction, others are asked."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters of a pretrained model."""
    patch_size: int = 16
    """tiny: side of a patch, pixels."""
    merge_size: int = 1
    """tiny: so many patches a side become one image token."""
    vision_width: int = 96
    """tiny: width of the vision transformer."""
    vision_layers: int = 2
    """tiny: layers of the vision transformer."""
    hidden_size: int = 96
    """tiny: width of the language model."""
    num_layers: int = 2
    """tiny: layers of the language model."""
    num_heads: int = 4
    """tiny: attention heads of both."""

    def __post_init__(self) -> None:
        sizes = ("patch_size", "merge_size", "vision_width", "vision_layers", "hidden_size", "num_layers", "num_heads")
        require_at_least(self, "model", 1, "image_size", *sizes)
        if self.question is not None and "{instruction}" not in self.question:
            raise UserError(f"model.question must hold {{instruction}}, got {self.question!r}")
        stride = self.patch_size * self.merge_size
        if self.name == TINY and self.image_size % stride:
            raise UserError(
                f"model.image_size {self.image_size} is not a multiple of {stride}, model.patch_size x model.merge_size"
            )
        for size in ("vision_width", "hidden_size"):
            # Rotary positions: in pairs, for rows and columns, and in the language model for time too.
            if getattr(self, size) % (8 * self.num_heads):
                raise UserError(f"model.{size} must be a multiple of 8 x num_heads, got {getattr(self, size)}")


@dataclass(frozen=True, kw_only=True)
class RewardTrainingConfig:
    """Training of the reward model.

    Raises:
        UserError: if a value is impossible.
    """

    num_steps: int = 1200
    """Gradient steps at most."""
    minibatch_size: int = 48
    """Frames per gradient step; half of them positive."""
    learning_rate: float = 2e-3
    """Peak; linear warm-up, then linear decay to 5 % of it. A pretrained model wants about 1e-4."""
    warmup_steps: int = 50
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this."""
    crop_pixels: int = 3
    """Image augmentation: random shift by up to this many pixels."""
    other_task_share: float = 0.2
    """Share of a minibatch that is positive frames under another task's instruction, which makes them negative."""
    validation_fraction: float = 0.15
    """Share of each task's episodes for early stopping; at least one."""
    test_fraction: float = 0.2
    """Share of each task's episodes that training never sees; at least one."""
    evaluation_interval: int = 100
    """Gradient steps between validations and checkpoints."""
    patience: int = 4
    """Validations without a better ROC-AUC before training stops."""
    seed: int = 0
    """Seed of weights, minibatches and augmentation."""

    def __post_init__(self) -> None:
        require_finite(self, "training")
        require_at_least(self, "training", 1, "num_steps", "evaluation_interval", "patience")
        require_at_least(self, "training", 4, "minibatch_size")
        require_at_least(self, "training", 0, "warmup_steps", "weight_decay", "crop_pixels")
        require_positive(self, "training", "learning_rate", "max_grad_norm")
        require_share(self, "training", "other_task_share", "validation_fraction", "test_fraction")
        require_seed(self, "training")
        if self.validation_fraction + self.test_fraction >= 1:
            raise UserError(
                f"training.validation_fraction {self.validation_fraction} and training.test_fraction"
                f" {self.test_fraction} leave no episode to train on"
            )
        if self.other_task_share > 0.5:
            raise UserError(f"training.other_task_share must be at most 0.5, got {self.other_task_share}")


@dataclass(frozen=True, kw_only=True)
class ProcessRewardConfig:
    """The process reward in RL, on top of success (`reward` is then process).

    Raises:
        UserError: if a value is impossible.
    """

    model: str | None = None
    """Folder of a trained reward model (`vlarl reward train`)."""
    weight: float = 0.3
    """Most that an episode can collect beside the 1 of success; below 1, so that no failure is worth a success."""
    mode: Literal["added", "potential"] = "added"
    """added: each turn earns weight x probability / turns of the step limit; potential: the discounted change of
    weight x probability, which leaves the best policy what it is (Ng et al. 1999)."""
    batch_size: int = 64
    """Frames per forward pass."""

    def __post_init__(self) -> None:
        require_finite(self, "process_reward")
        require_at_least(self, "process_reward", 1, "batch_size")
        check_names("process_reward.mode", [self.mode], ("added", "potential"))
        if not 0 < self.weight < 1:
            raise UserError(
                f"process_reward.weight must be in (0, 1), got {self.weight}: from 1 on a failure could be worth more"
                " than a success"
            )
