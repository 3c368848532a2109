"""LIBERO with upstream's physics, stepped and rendered fast. Importing it registers the suites with Gymnasium."""

from typing import TYPE_CHECKING

from gymnasium.envs.registration import register

from vlarl.envs.libero.tasks import STEP_LIMITS

if TYPE_CHECKING:
    from vlarl.envs.libero.gymnasium_env import LiberoEnv

__all__ = ["LiberoEnv", "gymnasium_id"]


def gymnasium_id(task_suite: str) -> str:
    """Name of a suite's environment: "vlarl/LiberoSpatial-v0" for libero_spatial."""
    return f"vlarl/{task_suite.title().replace('_', '')}-v0"


def __getattr__(name: str) -> type:
    """Imports LiberoEnv, and with it the simulator, on first use."""
    if name != "LiberoEnv":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vlarl.envs.libero.gymnasium_env import LiberoEnv

    return LiberoEnv


for _suite in STEP_LIMITS:
    register(
        gymnasium_id(_suite),
        entry_point="vlarl.envs.libero.gymnasium_env:LiberoEnv",
        kwargs={"task_suite": _suite},
    )
