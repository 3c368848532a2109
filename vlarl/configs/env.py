"""What the environments are: which simulator, which tasks, how many slots."""

from dataclasses import dataclass
from typing import Literal, get_args

from vlarl.configs.checks import require_at_least, require_seed
from vlarl.configs.shift import Shift
from vlarl.errors import UserError, check_names

Stepping = Literal["fast", "exact"]
RenderProfile = Literal["fast", "reference"]


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """A vectorised environment.

    Raises:
        UserError: if a size or a shift is impossible.
    """

    name: str = "libero"
    """Registered environment (`vlarl.envs.base.ENVIRONMENTS`)."""
    task_suite: str = "libero_goal"
    """Suite of tasks, for example libero_object."""
    task_ids: tuple[int, ...] = (0,)
    """Tasks of the suite that one policy learns jointly."""
    image_size: int = 64
    """Side of the square camera image, pixels."""
    num_envs: int = 32
    """Environment slots over all workers."""
    num_workers: int = 2
    """Worker processes; a slot lives in exactly one."""
    replan_steps: int = 8
    """Actions executed per turn before the policy is asked again, env steps."""
    max_episode_steps: int | None = None
    """Episode limit for training, env steps; None takes the suite's protocol limit."""
    stepping: Stepping = "fast"
    """LIBERO's physics: "exact" gives upstream's bits, "fast" solves once per substep instead of three times."""
    render_profile: RenderProfile = "fast"
    """LIBERO's frames: "reference" gives upstream's pixels, "fast" draws light models without shadows."""
    render_gpus: tuple[int, ...] | None = None
    """GPUs that draw frames, round-robin over the workers; None takes all that are visible, naming all but the policy's
    spares that one. Without a GPU the CPU draws."""
    shift: str | None = None
    """LIBERO with a physical difference, KIND=STRENGTH: camera=0.05 (metres to its right), light=0.5, friction=0.5,
    mass=2 (factors) or delay=2 (env steps until an action is executed)."""
    seed: int = 0
    """Seed of the pools of training and validation starts."""

    def __post_init__(self) -> None:
        require_at_least(self, "env", 1, "image_size", "num_envs", "num_workers", "replan_steps")
        require_seed(self, "env")
        check_names("env.stepping", [self.stepping], get_args(Stepping))
        check_names("env.render_profile", [self.render_profile], get_args(RenderProfile))
        if self.shift is not None:
            Shift.parse(self.shift)
            if self.name != "libero":
                raise UserError(f"env.shift is for libero, the environment is {self.name}: leave it out")
        if self.render_gpus == ():
            raise UserError("env.render_gpus is empty: name a GPU, or leave it out for all")
        if not self.task_ids:
            raise UserError("env.task_ids is empty: name at least one task")
        if len(set(self.task_ids)) != len(self.task_ids):
            raise UserError(f"env.task_ids repeats a task: {list(self.task_ids)}")
        if self.num_workers > self.num_envs:
            raise UserError(f"env.num_workers {self.num_workers} is larger than env.num_envs {self.num_envs}")
        if self.max_episode_steps is not None and self.max_episode_steps < self.replan_steps:
            raise UserError(
                f"env.max_episode_steps {self.max_episode_steps} is shorter than one turn of {self.replan_steps} steps"
            )
