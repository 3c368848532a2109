"""Where built tasks lie on disk."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mujoco
from platformdirs import user_cache_dir

from vlarl.configs.env import RenderProfile

RECIPE_VERSION = 2
"""Raise it when what is built changes."""


def cache_root() -> Path:
    """Folder of everything built: $VLARL_CACHE, else the user's cache folder."""
    return Path(os.environ.get("VLARL_CACHE") or user_cache_dir("vlarl"))


@dataclass(frozen=True)
class TaskFiles:
    """Files of one built task."""

    folder: Path

    @classmethod
    def of(cls, suite: str, task_id: int) -> "TaskFiles":
        """Files of a task for the installed MuJoCo."""
        return cls(cache_root() / f"libero-{RECIPE_VERSION}-mujoco-{mujoco.__version__}" / f"{suite}_{task_id}")

    @property
    def model(self) -> Path:
        """Compiled light model."""
        return self.folder / "model.mjb"

    @property
    def reference(self) -> Path:
        """Compiled model with upstream's meshes and textures, built only for the profile "reference"."""
        return self.folder / "reference.mjb"

    @property
    def description(self) -> Path:
        """Goal, objects and fixtures by their numbers in the model, JSON."""
        return self.folder / "task.json"

    def starts(self, seed: int) -> Path:
        """Settled start states of all splits."""
        return self.folder / f"starts_{seed}.npz"

    def are_complete(self, seed: int, profile: RenderProfile = "fast") -> bool:
        """Whether everything is built for the pools of this seed and the render profile."""
        reference = (self.reference,) if profile == "reference" else ()
        return all(path.is_file() for path in (self.model, self.description, self.starts(seed), *reference))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a scratch path of the same suffix, then puts the file in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
