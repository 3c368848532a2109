"""LIBERO with upstream's physics, stepped and rendered fast. Importing it registers the suites with Gymnasium."""

from importlib import import_module
from typing import TYPE_CHECKING

from gymnasium.envs.registration import register

from vlarl.envs.libero.tasks import STEP_LIMITS

if TYPE_CHECKING:
    from vlarl.envs.libero.gymnasium_env import LiberoEnv
    from vlarl.envs.libero.gymnasium_vector import LiberoVectorEnv

__all__ = ["LiberoEnv", "LiberoVectorEnv", "gymnasium_id"]

_MODULES = {
    "LiberoEnv": "vlarl.envs.libero.gymnasium_env",
    "LiberoVectorEnv": "vlarl.envs.libero.gymnasium_vector",
}


def gymnasium_id(task_suite: str) -> str:
    """Name of a suite's environment: "vlarl/LiberoSpatial-v0" for libero_spatial."""
    return f"vlarl/{task_suite.title().replace('_', '')}-v0"


def __getattr__(name: str) -> type:
    """Imports an environment, and with it the simulator, on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


for _suite in STEP_LIMITS:
    register(
        gymnasium_id(_suite),
        entry_point=f"{_MODULES['LiberoEnv']}:LiberoEnv",
        vector_entry_point=f"{_MODULES['LiberoVectorEnv']}:LiberoVectorEnv",
        kwargs={"task_suite": _suite},
    )
