"""Where built tasks lie on disk."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
from platformdirs import user_cache_dir

from vlarl.configs.env import RenderProfile
from vlarl.errors import UserError
from vlarl.files import write_atomically

COMPILED_SOURCES = (
    *("compiled.py", "constraints.py", "contacts.py", "culling.py", "exact.py", "island.py", "library.py", "near.py"),
    "solver.py",
)
"""Files of compiled functions, which call each other across files, and of what they take."""
RECIPE_VERSION = 4
"""Raise it when what is built changes."""
TASK_BYTES: dict[RenderProfile, int] = {"fast": 20 * 2**20, "reference": 400 * 2**20}
"""What a built task takes at most, by the profile that it is built for."""


def cache_root() -> Path:
    """Folder of everything built: $VLARL_CACHE, else the user's cache folder."""
    return Path(os.environ.get("VLARL_CACHE") or user_cache_dir("vlarl"))


def current_recipe() -> str:
    """Folder name of what this version of the project builds with the installed MuJoCo."""
    return f"libero-{RECIPE_VERSION}-mujoco-{mujoco.__version__}"


@cache
def code_folder() -> Path:
    """Folder of the machine code of this version's compiled functions."""
    sources = Path(__file__).resolve().parent
    content = b"".join((sources / name).read_bytes() for name in COMPILED_SOURCES)
    return cache_root() / f"libero-code-{hashlib.sha256(content).hexdigest()[:12]}" / "numba"


@dataclass(frozen=True)
class TaskFiles:
    """Files of one built task."""

    folder: Path

    @classmethod
    def of(cls, suite: str, task_id: int) -> "TaskFiles":
        """Files of a task for the installed MuJoCo."""
        return cls(cache_root() / current_recipe() / f"{suite}_{task_id}")

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

    def is_loadable(self) -> bool:
        """Whether the light model and its description are built."""
        return self.model.is_file() and self.description.is_file()

    def are_complete(self, seed: int, profile: RenderProfile = "fast") -> bool:
        """Whether everything is built for the pools of this seed and the render profile."""
        reference = (self.reference,) if profile == "reference" else ()
        return self.is_loadable() and all(path.is_file() for path in (self.starts(seed), *reference))


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """One folder of the cache: a built task, or machine code."""

    recipe: str
    """Version of the build and of MuJoCo, for example libero-2-mujoco-3.3.2, or of the compiled functions."""
    name: str
    """Suite and task, or whose machine code."""
    size_bytes: int


def is_current(entry: CacheEntry) -> bool:
    """Whether this version of the project uses it."""
    return entry.recipe in (current_recipe(), code_folder().parent.name)


def cache_entries() -> list[CacheEntry]:
    """Everything in the cache, sorted; entries of other versions are never used and can be cleared."""
    folders = sorted(path for path in cache_root().glob("libero-*/*") if path.is_dir())
    return [
        CacheEntry(
            recipe=folder.parent.name,
            name=folder.name,
            size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        )
        for folder in folders
    ]


def clear_cache(entries: Iterable[CacheEntry]) -> None:
    """Deletes built tasks; they are built again when they are needed. Running simulations keep what they loaded."""
    for entry in entries:
        shutil.rmtree(cache_root() / entry.recipe / entry.name, ignore_errors=True)


def require_room(needed_bytes: int) -> None:
    """Checks that the cache can take that much more.

    Raises:
        UserError: its folder cannot be written, or its disk is full.
    """
    root = cache_root()
    fix = "set VLARL_CACHE to a folder that can, or `vlarl cache --clear old` deletes what other versions built"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            free = shutil.disk_usage(root).free
    except OSError as error:
        raise UserError(f"the cache {root} cannot take built tasks ({error}): {fix}") from error
    if free < needed_bytes:
        raise UserError(
            f"the cache {root} cannot take built tasks: {free / 2**20:.0f} MiB are free, {needed_bytes / 2**20:.0f} are"
            f" needed: {fix}"
        )


def save_model(model: mujoco.MjModel, path: Path) -> None:
    """Writes a compiled model, atomically. MuJoCo's own writing says nothing when the disk is full."""
    buffer = np.empty(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    write_atomically(path, lambda scratch: scratch.write_bytes(buffer))
