"""Supervised fine-tuning, PPO, evaluation, and the complete configuration of a run."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vlarl.configs.checks import require_at_least, require_finite, require_positive, require_seed, require_share
from vlarl.configs.curriculum import CurriculumConfig
from vlarl.configs.env import EnvConfig
from vlarl.configs.monitor import MonitorConfig
from vlarl.configs.openvla import OpenVLAPolicyConfig
from vlarl.configs.policy import PolicyConfig
from vlarl.configs.reward import ProcessRewardConfig
from vlarl.errors import UserError

ValueKind = Literal["homogeneous", "frozen", "small"]
Algorithm = Literal["ppo", "grpo", "rloo", "rejection"]


@dataclass(frozen=True, kw_only=True)
class DemonstrationConfig:
    """Demonstrations by scripted experts."""

    seed: int = 0
    """Decides starts, mistakes and noise. Apart from the run's: runs of several seeds learn from the same data, as from
    a published data set, and differ in training alone."""
    episodes_per_task: int = 10
    """Successful demonstrations kept per task; 0: none, and no SFT."""
    recovery_probability: float = 0.7
    """Share of demonstrations with one forced early close of the gripper and the expert's correction."""
    action_noise: float = 0.0
    """Strength of random pushes, standard deviation in units of an action: now and then the hand is pushed off its way
    for some steps, which are not imitated, and the expert's way back is. 0: none."""
    source: str | None = None
    """Folder with demonstrations in LIBERO's published layout (`<task name>_demo.hdf5`) to take in the place of the
    experts'; None lets the experts demonstrate."""

    def __post_init__(self) -> None:
        require_seed(self, "demonstrations")
        require_at_least(self, "demonstrations", 0, "episodes_per_task")
        require_share(self, "demonstrations", "recovery_probability", "action_noise")


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Next-token cross-entropy on the action tokens of demonstrations."""

    num_steps: int = 1500
    """Gradient steps."""
    minibatch_size: int = 24
    """Frames per gradient step."""
    microbatch_size: int = 32
    """Frames per forward and backward pass; gradients accumulate."""
    learning_rate: float = 2e-3
    """Peak learning rate; linear warm-up, then linear decay to 5 % of it."""
    warmup_steps: int = 30
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this."""
    first_action_weight: float = 2.0
    """Loss weight of the tokens of a turn's first action (later ones are easy copies)."""
    crop_pixels: int = 2
    """Image augmentation: random shift by up to this many pixels."""
    ema_decay: float = 0.99
    """Decay of the exponential moving average of weights, which is what is kept."""
    validation_fraction: float = 0.1
    """Share of demonstrations held out for the validation loss."""
    log_interval: int = 50
    """Gradient steps between log lines."""

    def __post_init__(self) -> None:
        require_finite(self, "sft")
        require_at_least(self, "sft", 1, "num_steps", "minibatch_size", "microbatch_size", "log_interval")
        require_positive(self, "sft", "learning_rate", "max_grad_norm", "first_action_weight")
        require_at_least(self, "sft", 0, "warmup_steps", "weight_decay", "crop_pixels")
        require_share(self, "sft", "ema_decay")
        if self.warmup_steps >= self.num_steps:
            raise UserError(f"sft.warmup_steps {self.warmup_steps} leaves nothing of sft.num_steps {self.num_steps}")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"sft.validation_fraction must be in [0, 1), got {self.validation_fraction}")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Trajectory-level PPO over action tokens."""

    num_iterations: int = 24
    """Iterations after the critic warm-up; each collects, updates and publishes once. 0: SFT alone."""
    critic_warmup_iterations: int = 1
    """Iterations before those, in which only the value network learns."""
    rollout_batch_size: int = 64
    """Trajectories per iteration."""
    minibatch_size: int = 256
    """Turns per optimizer step."""
    microbatch_size: int = 128
    """Turns per forward and backward pass; gradients accumulate to the minibatch's, whatever this is."""
    update_epochs: int = 2
    """Passes over the rollout per iteration."""
    critic_warmup_epochs: int = 6
    """Passes over the rollout in a critic warm-up iteration."""
    temperature: float = 0.6
    """Sampling temperature of rollouts; log-probabilities are taken at the same one."""
    ratio_level: Literal["token", "turn"] = "token"
    """One importance ratio per token (the paper's text) or per turn (the paper's code)."""
    clip_ratio_low: float = 0.2
    """Lower clip of the ratio."""
    clip_ratio_high: float = 0.28
    """Upper clip of the ratio (DAPO's clip-higher)."""
    value_clip_range: float | None = None
    """Clip of the value update around the old value; None is off (the paper's code: 0.2)."""
    gamma: float = 0.99
    """Discount per turn."""
    gae_lambda: float = 0.95
    """GAE's lambda, per turn."""
    bootstrap_truncated: bool = True
    """The value of the final observation stands for what would follow after the step limit; off, the limit is a
    failure, as LIBERO counts it."""
    learning_rate: float = 2e-4
    """Policy learning rate."""
    value_learning_rate: float = 5e-4
    """Value network's learning rate."""
    lr_warmup_updates: int = 8
    """Optimizer steps of linear warm-up for the policy (Adam's first steps are sign-like)."""
    anneal_lr: bool = True
    """Both learning rates fall linearly over the PPO iterations, to zero after the last (CleanRL's anneal_lr)."""
    adam_betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decay rates."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    max_grad_norm: float = 1.0
    """Gradient norms of policy and value network are clipped to this, each on its own."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus, per token."""
    kl_coef: float = 0.0
    """Weight of the KL divergence to the policy that training started from, per token."""
    max_staleness: int = 0
    """Updates by which the weights that sample may be behind: at 1 the next rollout is collected during an update. 0:
    always the newest. More than 0 needs generators of their own (--cluster)."""
    importance_weight_cap: float = 2.0
    """Tokens that older weights sampled count by the ratio of probabilities, at most this."""
    target_kl: float | None = 0.02
    """An iteration's remaining minibatches are skipped once the KL per token exceeds this; None never."""

    def __post_init__(self) -> None:
        require_finite(self, "ppo")
        sizes = ("rollout_batch_size", "minibatch_size", "microbatch_size", "update_epochs", "critic_warmup_epochs")
        require_at_least(self, "ppo", 1, *sizes)
        rates = ("temperature", "learning_rate", "value_learning_rate", "max_grad_norm", "adam_eps")
        limits = ("clip_ratio_high", "value_clip_range", "target_kl", "importance_weight_cap")
        require_positive(self, "ppo", *rates, *limits)
        counts = ("num_iterations", "critic_warmup_iterations", "lr_warmup_updates", "max_staleness")
        require_at_least(self, "ppo", 0, *counts, "entropy_coef", "kl_coef")
        require_share(self, "ppo", "gamma", "gae_lambda")
        if self.microbatch_size > self.minibatch_size:
            raise UserError(
                f"ppo.microbatch_size {self.microbatch_size} is larger than ppo.minibatch_size {self.minibatch_size}"
            )
        if not 0 < self.clip_ratio_low < 1:
            raise UserError(f"ppo.clip_ratio_low must be in (0, 1), got {self.clip_ratio_low}")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise UserError(f"ppo.adam_betas must be in [0, 1), got {list(self.adam_betas)}")

    @property
    def total_iterations(self) -> int:
        """Critic warm-up and PPO iterations together; without the latter nothing is warmed up."""
        return self.critic_warmup_iterations + self.num_iterations if self.num_iterations else 0


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Evaluation on fixed starts, under the suite's protocol limit."""

    episodes_per_task: int = 50
    """Evaluation starts per task."""
    validation_interval: int = 6
    """PPO iterations between validations, which choose the checkpoint; 0 never."""
    validation_episodes_per_task: int = 25
    """Validation starts per task."""
    probe_episodes_per_task: int = 15
    """Evaluation starts per task with swapped instructions and with blank images."""
    video_starts_per_task: int = 2
    """Starts per task of which a side-by-side video is made."""

    def __post_init__(self) -> None:
        counts = ("episodes_per_task", "validation_episodes_per_task", "probe_episodes_per_task")
        require_at_least(self, "evaluation", 1, *counts)
        require_at_least(self, "evaluation", 0, "validation_interval", "video_starts_per_task")
        if self.probe_episodes_per_task > self.episodes_per_task:
            raise UserError(
                f"evaluation.probe_episodes_per_task {self.probe_episodes_per_task} is larger than"
                f" evaluation.episodes_per_task {self.episodes_per_task}: probes are compared on the same starts"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run's result, apart from its output folder.

    Raises:
        UserError: if parts contradict each other.
    """

    recipe: str
    """Recipe that the settings start from; `vlarl recipes` lists them."""
    seed: int = 0
    """Seed of weights, sampling and batches; demonstrations have their own (demonstrations.seed)."""
    exact: bool = False
    """Bit-exact resume and repetition: deterministic algorithms and one thread."""
    learner_threads: int = 2
    """Threads of the learner, CPU cores."""
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig | OpenVLAPolicyConfig = field(default_factory=PolicyConfig)
    value: ValueKind = "homogeneous"
    """Value network: the policy's architecture with its own parameters (at 7B its own LoRA), the policy's trunk as it
    is when training starts, frozen, under a trained head, or a small network."""
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward: str = "success"
    """Registered reward function (`vlarl.rewards.base.REWARDS`)."""
    process_reward: ProcessRewardConfig = field(default_factory=ProcessRewardConfig)
    algorithm: Algorithm = "ppo"
    """ppo; or, without a critic, grpo or rloo, which compare `group_size` trajectories from one start, or rejection,
    which imitates the policy's own successes."""
    group_size: int = 8
    """Trajectories from each start with grpo and rloo; the others draw a start for every trajectory."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint_interval: int = 1
    """PPO iterations between checkpoints."""
    keep_last: int = 2
    """Newest checkpoints kept; the one that validation chooses is kept beside them."""
    sinks: tuple[str, ...] = ("jsonl", "tensorboard")
    """Where metrics go: jsonl, tensorboard, wandb, trackio."""

    def __post_init__(self) -> None:
        require_seed(self, "")
        require_at_least(self, "", 1, "learner_threads", "checkpoint_interval", "keep_last")
        if "jsonl" not in self.sinks:
            raise UserError(
                f"sinks {list(self.sinks)} lacks jsonl, which the report and a resumed run read: add it, for example"
                " --sinks jsonl tensorboard"
            )
        if (self.reward == "process") != (self.process_reward.model is not None):
            raise UserError(
                f"reward is {self.reward!r} and process_reward.model is {self.process_reward.model!r}: the reward"
                " process needs the folder of a model that `vlarl reward train` wrote, and no other takes one"
            )
        if self.policy.image_size != self.env.image_size:
            raise UserError(
                f"policy.image_size {self.policy.image_size} and env.image_size {self.env.image_size} differ"
            )
        if self.env.replan_steps > self.policy.action_horizon:
            raise UserError(
                f"env.replan_steps {self.env.replan_steps} is larger than policy.action_horizon"
                f" {self.policy.action_horizon}: the policy emits no more actions than that"
            )
        self._check_critic_free()

    def _check_critic_free(self) -> None:
        if self.has_critic:
            return
        if self.ppo.critic_warmup_iterations:
            raise UserError(
                f"{self.algorithm} has no critic to warm up: add --ppo.critic-warmup-iterations 0 (it is"
                f" {self.ppo.critic_warmup_iterations})"
            )
        if self.algorithm == "rejection":
            if self.reward != "success":
                raise UserError(
                    f"rejection keeps the trajectories that succeed and reads no reward {self.reward!r}: leave --reward"
                    " away, or choose another --algorithm"
                )
            return
        require_at_least(self, "", 2, "group_size")
        if self.ppo.rollout_batch_size % self.group_size:
            raise UserError(
                f"ppo.rollout_batch_size {self.ppo.rollout_batch_size} is not a multiple of group_size"
                f" {self.group_size}: {self.algorithm} compares whole groups"
            )

    @property
    def has_critic(self) -> bool:
        """Whether there is a value network."""
        return self.algorithm == "ppo"

    @property
    def trajectories_per_start(self) -> int:
        """How often each drawn start is played in a rollout."""
        return self.group_size if self.algorithm in ("grpo", "rloo") else 1

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, written as config.json beside the results."""
        return asdict(self)
