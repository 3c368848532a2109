"""How the parts of a training spread over processes and machines. Nothing here changes what is learned."""

from dataclasses import dataclass
from typing import Literal

from vlarl.configs.checks import require_at_least, require_finite, require_positive


@dataclass(frozen=True, kw_only=True)
class RolesConfig:
    """Environment workers, generators and trainer ranks of `--cluster`.

    Raises:
        UserError: if a number is impossible.
    """

    num_trainers: int = 1
    """Processes that share the policy's training, one GPU each where there are GPUs."""
    num_generators: int = 1
    """Processes that decode actions, one GPU each where there are GPUs; each has its share of the environments."""
    generator: Literal["local", "vllm"] = "local"
    """What decodes: the project's own batched decoding, or vLLM (OpenVLA policies only)."""
    envs_per_worker: int | None = None
    """Environment slots of one environment worker; None takes the recipe's env.num_workers."""
    trainer_cpus: float = 1.0
    """CPU cores of a trainer."""
    generator_cpus: float = 1.0
    """CPU cores of a generator."""
    env_worker_cpus: float = 1.0
    """CPU cores of an environment worker."""
    bfloat16: bool = False
    """Several trainers compute in bfloat16; parameters, gradients and optimizer states stay float32."""
    deadline_minutes: float = 60.0
    """Longest wait for one answer of a role: a rollout, an update, a publication. One that takes longer is lost."""
    max_restarts: int = 5
    """Roles that may be lost and started again before the run gives up."""

    def __post_init__(self) -> None:
        require_finite(self, "roles")
        require_at_least(self, "roles", 1, "num_trainers", "num_generators", "envs_per_worker")
        require_positive(self, "roles", "trainer_cpus", "generator_cpus", "env_worker_cpus", "deadline_minutes")
        require_at_least(self, "roles", 0, "max_restarts")

    @property
    def deadline_seconds(self) -> float:
        """`deadline_minutes`, seconds."""
        return 60.0 * self.deadline_minutes
